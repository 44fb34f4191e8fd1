#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace headfields {
namespace {

struct Job {
    int64_t n, grain;
    int threads;
    const std::function<void(int64_t, int64_t, int)> *body;
    std::atomic<int64_t> next{0};
    std::atomic<int> workers{0};  // ids handed out
    int inside = 0;               // pool threads at work on this job (guarded by Pool::mutex)
    std::exception_ptr error;
    std::mutex error_mutex;

    void work() {
        const int worker = workers.fetch_add(1);
        if (worker >= threads) return;
        try {
            for (;;) {
                const int64_t begin = next.fetch_add(grain);
                if (begin >= n) return;
                (*body)(begin, std::min(begin + grain, n), worker);
            }
        } catch (...) {
            next.store(n);
            std::lock_guard<std::mutex> lock(error_mutex);
            if (!error) error = std::current_exception();
        }
    }
};

// Threads wait here for jobs. They are started when first needed and never joined: the pool is leaked on purpose,
// so that interpreter exit does not wait for a thread that the operating system has already ended.
struct Pool {
    std::mutex mutex;
    std::condition_variable wake, done;
    Job *job = nullptr;
    uint64_t serial = 0;
    int size = 0;

    void loop() {
        uint64_t seen = 0;
        std::unique_lock<std::mutex> lock(mutex);
        for (;;) {
            wake.wait(lock, [&] { return job != nullptr && serial != seen; });
            seen = serial;
            Job *mine = job;
            ++mine->inside;
            lock.unlock();
            mine->work();
            lock.lock();
            if (--mine->inside == 0) done.notify_all();
        }
    }

    void run(Job &mine) {
        {
            std::lock_guard<std::mutex> lock(mutex);
            try {
                for (; size < mine.threads - 1; ++size) std::thread([this] { loop(); }).detach();
            } catch (const std::system_error &) {
                // The system gives no more threads: the existing ones do the work.
            }
            job = &mine;
            ++serial;
        }
        wake.notify_all();
        mine.work();
        std::unique_lock<std::mutex> lock(mutex);
        job = nullptr;
        done.wait(lock, [&] { return mine.inside == 0; });
    }
};

Pool *pool = nullptr;
// One parallel loop at a time; a second caller, or a loop within a loop, runs alone. A flag and not a mutex: no thread
// waits for it, the thread that holds it may request it again, and a forked child may clear it.
std::atomic<bool> pool_taken{false};

#if !defined(_WIN32)
void forget_pool_after_fork() {
    pool = nullptr;  // its threads do not exist in the child
    pool_taken.store(false);
}
[[maybe_unused]] const int fork_handled = pthread_atfork(nullptr, nullptr, forget_pool_after_fork);
#endif

struct Taken {
    const bool mine = !pool_taken.exchange(true, std::memory_order_acquire);
    ~Taken() {
        if (mine) pool_taken.store(false, std::memory_order_release);
    }
};

void run_alone(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t, int)> &body) {
    for (int64_t begin = 0; begin < n; begin += grain) body(begin, std::min(begin + grain, n), 0);
}

}  // namespace

void parallel_for(int64_t n, int64_t grain, int threads, const std::function<void(int64_t, int64_t, int)> &body) {
    if (n <= 0) return;
    grain = std::max<int64_t>(grain, 1);
    const int64_t chunks = (n + grain - 1) / grain;
    threads = static_cast<int>(std::min<int64_t>(std::max(threads, 1), chunks));
    if (threads == 1) return run_alone(n, grain, body);
    const Taken taken;
    if (!taken.mine) return run_alone(n, grain, body);
    if (pool == nullptr) pool = new Pool();
    Job job;
    job.n = n;
    job.grain = grain;
    job.threads = threads;
    job.body = &body;
    pool->run(job);
    if (job.error) std::rethrow_exception(job.error);
}

}  // namespace headfields
