#include <nanobind/nanobind.h>

namespace nb = nanobind;

void bind_hash_grid(nb::module_ &) {}
