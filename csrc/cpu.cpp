#include "cpu.h"

#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace headfields {

#if defined(HF_X86)
// Asked of the processor itself: the compilers' __builtin_cpu_supports needs a runtime library that clang-cl does not link.
struct Registers {
    uint32_t a, b, c, d;
    bool has(uint32_t Registers::*which, std::initializer_list<int> bits) const {
        for (int bit : bits)
            if (!((this->*which >> bit) & 1)) return false;
        return true;
    }
};

static Registers cpuid(uint32_t leaf) {
    Registers r;
    __asm__ volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(0));
    return r;
}

// The registers that the system saves when it changes between programs: without, wider ones may not be used.
static uint32_t saved_registers() {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static Isa best_isa() {
    if (cpuid(0).a < 7) return Isa::baseline;
    const Registers one = cpuid(1), seven = cpuid(7);
    const bool avx2 = one.has(&Registers::c, {12, 27, 28, 29}) &&  // FMA, XSAVE in use, AVX, F16C
                      (saved_registers() & 0x06) == 0x06 &&        // XMM, YMM
                      seven.has(&Registers::b, {3, 5, 8});         // BMI, AVX2, BMI2
    const bool avx512 = avx2 && (saved_registers() & 0xe0) == 0xe0 &&  // masks, ZMM
                        seven.has(&Registers::b, {16, 17, 30, 31});    // F, DQ, BW, VL
    return avx512 ? Isa::avx512 : avx2 ? Isa::avx2 : Isa::baseline;
}
#else
static Isa best_isa() { return Isa::baseline; }
#endif

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
