// A loop over many threads. Kernels take the thread count from Python (torch.get_num_threads()), so that one
// setting controls both torch and this module.
#pragma once
#include <cstdint>
#include <functional>

namespace headfields {

// Calls body(begin, end, worker) on chunks of [0, n) of at most `grain` items, on up to `threads` threads, the
// caller's among them; 0 <= worker < threads, and no two calls at one time share a worker. Returns when all are
// done; the first exception is rethrown. Must not be called with the GIL held if body takes it. Survives fork().
void parallel_for(int64_t n, int64_t grain, int threads,
                  const std::function<void(int64_t begin, int64_t end, int worker)> &body);

}  // namespace headfields
