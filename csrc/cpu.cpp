#include "cpu.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace headfields {

static Isa best_isa() {
#if defined(HF_X86)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    return avx512 ? Isa::avx512 : avx2 ? Isa::avx2 : Isa::baseline;
#else
    return Isa::baseline;
#endif
}

static Isa choose_isa() {
    const Isa best = best_isa();
    const char *asked = std::getenv("HEADFIELDS_ISA");
    if (asked == nullptr || *asked == '\0') return best;
    for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512})
        if (std::string(asked) == isa_name(isa)) {
            if (isa > best)
                throw std::invalid_argument(std::string("HEADFIELDS_ISA=") + asked + ": this processor has only " + isa_name(best));
            return isa;
        }
    throw std::invalid_argument(std::string("HEADFIELDS_ISA=") + asked + ": expected baseline, avx2 or avx512");
}

Isa active_isa() {
    static const Isa isa = choose_isa();
    return isa;
}

const char *isa_name(Isa isa) {
    switch (isa) {
        case Isa::avx512: return "avx512";
        case Isa::avx2: return "avx2";
        default: return "baseline";
    }
}

}  // namespace headfields
