#include <nanobind/nanobind.h>

namespace nb = nanobind;

void bind_harmonics(nb::module_ &) {}
