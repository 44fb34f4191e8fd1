// The one extension module, headfields._native. Each bind_* function lives beside the kernels it exposes.
#include <nanobind/nanobind.h>

#include "cpu.h"

namespace nb = nanobind;

void bind_bvh(nb::module_ &m);
void bind_hash_grid(nb::module_ &m);
void bind_harmonics(nb::module_ &m);
void bind_packed(nb::module_ &m);
void bind_occupancy(nb::module_ &m);
void bind_blended_map(nb::module_ &m);
void bind_mlp(nb::module_ &m);
void bind_rows(nb::module_ &m);
void bind_softplus(nb::module_ &m);
void bind_nearest_vertices(nb::module_ &m);
void bind_marching_cubes(nb::module_ &m);
void bind_splat(nb::module_ &m);
void bind_blur(nb::module_ &m);
void bind_bound_gaussians(nb::module_ &m);

NB_MODULE(_native, m) {
    m.doc() = "CPU kernels of headfields. Arrays in, arrays out; nothing here knows of torch.";
    m.def("isa", [] { return headfields::isa_name(headfields::active_isa()); },
          "The instruction set in use: 'baseline', 'avx2' or 'avx512' (HEADFIELDS_ISA forces a lower one).");
    bind_bvh(m);
    bind_hash_grid(m);
    bind_harmonics(m);
    bind_packed(m);
    bind_occupancy(m);
    bind_blended_map(m);
    bind_mlp(m);
    bind_rows(m);
    bind_softplus(m);
    bind_nearest_vertices(m);
    bind_marching_cubes(m);
    bind_splat(m);
    bind_blur(m);
    bind_bound_gaussians(m);
}
