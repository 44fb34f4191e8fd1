#include <nanobind/nanobind.h>

namespace nb = nanobind;

void bind_bvh(nb::module_ &) {}
