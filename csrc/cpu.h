// Which instruction set the hot loops run on. Chosen once, at the first call.
#pragma once

namespace headfields {

enum class Isa { baseline = 0, avx2 = 1, avx512 = 2 };

// The best set this processor and this build have, lowered by HEADFIELDS_ISA where that is set.
// Throws std::invalid_argument if HEADFIELDS_ISA asks for a set that the processor lacks or names none.
Isa active_isa();
const char *isa_name(Isa isa);

}  // namespace headfields

// Calls NAME from the namespace compiled for the active set: HF_DISPATCH(closest, args...).
#if defined(HF_X86)
#define HF_DISPATCH(NAME, ...)                                                        \
    (::headfields::active_isa() == ::headfields::Isa::avx512 ? avx512::NAME(__VA_ARGS__) \
     : ::headfields::active_isa() == ::headfields::Isa::avx2 ? avx2::NAME(__VA_ARGS__)   \
                                                             : baseline::NAME(__VA_ARGS__))
// Declares one function in every namespace: HF_DECLARE(void, closest, (int n, const float *x)).
#define HF_DECLARE(RESULT, NAME, ARGS)      \
    namespace baseline { RESULT NAME ARGS; } \
    namespace avx2 { RESULT NAME ARGS; }     \
    namespace avx512 { RESULT NAME ARGS; }
#else
#define HF_DISPATCH(NAME, ...) (baseline::NAME(__VA_ARGS__))
#define HF_DECLARE(RESULT, NAME, ARGS) \
    namespace baseline { RESULT NAME ARGS; }
#endif
