#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
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
            for (; size < mine.threads - 1; ++size) std::thread([this] { loop(); }).detach();
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
std::mutex pool_users;  // one parallel loop at a time; a second caller runs its loop alone

void forget_pool_after_fork() {
    pool = nullptr;  // its threads do not exist in the child
    new (&pool_users) std::mutex();
}

}  // namespace

void parallel_for(int64_t n, int64_t grain, int threads, const std::function<void(int64_t, int64_t, int)> &body) {
    if (n <= 0) return;
    grain = std::max<int64_t>(grain, 1);
    const int64_t chunks = (n + grain - 1) / grain;
    threads = static_cast<int>(std::min<int64_t>(std::max(threads, 1), chunks));
    std::unique_lock<std::mutex> use(pool_users, std::defer_lock);
    if (threads == 1 || !use.try_lock()) {
        for (int64_t begin = 0; begin < n; begin += grain) body(begin, std::min(begin + grain, n), 0);
        return;
    }
    if (pool == nullptr) {
#if !defined(_WIN32)
        static const int registered = pthread_atfork(nullptr, nullptr, forget_pool_after_fork);
        (void)registered;
#endif
        pool = new Pool();
    }
    Job job;
    job.n = n;
    job.grain = grain;
    job.threads = threads;
    job.body = &body;
    pool->run(job);
    if (job.error) std::rethrow_exception(job.error);
}

}  // namespace headfields
