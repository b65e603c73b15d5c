/* The pool of threads; see threads.h.
 *
 * One word tells what there is to do: the number of the job, whether it is still open to helpers, and how many are
 * inside. A helper joins by adding itself while the job is open, so the caller, who works too, never waits for a thread
 * that has yet to wake up: it closes the job when no task is left and waits for those inside only.
 */
#if !defined(_WIN32) && !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L
#endif

#include "threads.h"

#if defined(_WIN32) && !defined(EDGE_NO_THREADS)
#define EDGE_NO_THREADS
#endif

#ifdef EDGE_NO_THREADS

size_t edge_threads_bytes(size_t count) { return (void)count, 0; }
edge_threads *edge_threads_start(void *memory, size_t count) { return (void)memory, (void)count, NULL; }
void edge_threads_stop(edge_threads *threads) { (void)threads; }
size_t edge_thread_count(const edge_threads *threads) { return (void)threads, 1; }

void edge_parallel(edge_threads *threads, size_t tasks, edge_task_fn task, void *context) {
  (void)threads;
  for (size_t i = 0; i < tasks; ++i) task(context, i, 0);
}

#else

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

/* Looks at the word before a thread goes to sleep, some tens of microseconds, and before the caller gives its core to a
 * helper that was interrupted. */
enum { LOOKS = 4000 };

/* The word, 32 bits because some ARM has no atomics of 64: helpers inside, open or not, the job's number. Numbers come
 * round again; a helper that takes a job for the one it has done misses that one, no more. */
#define INSIDE UINT32_C(0x3FF)
#define OPEN UINT32_C(0x400)
#define JOB UINT32_C(0x800)

typedef struct helper {
  pthread_t thread;
  struct edge_threads *pool;
  size_t index;
} helper;

struct edge_threads {
  _Alignas(64) _Atomic uint32_t word; /* JOB * number + OPEN + helpers inside */
  _Alignas(64) atomic_size_t next;        /* the next task */
  _Alignas(64) size_t tasks;
  edge_task_fn task;
  void *context;
  size_t count; /* of threads, the caller among them */
  pid_t process; /* a child that was forked has the memory, but not the threads */
  pthread_mutex_t lock;
  pthread_cond_t wake;
  _Atomic uint32_t sleeping;
  atomic_bool stop;
  helper helpers[];
};

static inline void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__ARM_ARCH_7A__)
  __asm__ volatile("yield");
#endif
}

static void work(edge_threads *pool, size_t index) {
  for (;;) {
    const size_t task = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
    if (task >= pool->tasks) return;
    pool->task(pool->context, task, index);
  }
}

/* Whether there is an open job other than the one last `seen`, or the end. */
static bool called(const edge_threads *pool, uint32_t word, uint32_t seen) {
  return ((word & OPEN) && word / JOB != seen) || atomic_load(&pool->stop);
}

static void *help(void *argument) {
  helper *self = argument;
  edge_threads *pool = self->pool;
  uint32_t seen = 0; /* jobs are numbered from 1 */
  for (;;) {
    uint32_t word = atomic_load(&pool->word);
    for (int i = 0; i < LOOKS && !called(pool, word, seen); ++i) {
      pause_briefly();
      word = atomic_load(&pool->word);
    }
    if (!called(pool, word, seen)) {
      pthread_mutex_lock(&pool->lock);
      atomic_fetch_add(&pool->sleeping, 1); /* before the last look: the caller looks in the other order */
      while (!called(pool, word = atomic_load(&pool->word), seen)) pthread_cond_wait(&pool->wake, &pool->lock);
      atomic_fetch_sub(&pool->sleeping, 1);
      pthread_mutex_unlock(&pool->lock);
    }
    if (atomic_load(&pool->stop)) return NULL;
    if (!atomic_compare_exchange_strong(&pool->word, &word, word + 1)) continue;
    seen = word / JOB;
    work(pool, self->index);
    atomic_fetch_sub(&pool->word, 1);
  }
}

size_t edge_threads_bytes(size_t count) { return sizeof(edge_threads) + count * sizeof(helper); }

edge_threads *edge_threads_start(void *memory, size_t count) {
  edge_threads *pool = memory;
  atomic_init(&pool->word, 0);
  atomic_init(&pool->next, 0);
  atomic_init(&pool->sleeping, 0);
  atomic_init(&pool->stop, false);
  pool->tasks = 0;
  pool->count = 1;
  pool->process = getpid();
  if (pthread_mutex_init(&pool->lock, NULL) != 0) return NULL;
  if (pthread_cond_init(&pool->wake, NULL) != 0) {
    pthread_mutex_destroy(&pool->lock);
    return NULL;
  }
  while (pool->count < count && pool->count < EDGE_MAX_THREADS) {
    helper *one = &pool->helpers[pool->count];
    one->pool = pool;
    one->index = pool->count;
    if (pthread_create(&one->thread, NULL, help, one) != 0) break;
    ++pool->count;
  }
  return pool;
}

void edge_threads_stop(edge_threads *threads) {
  if (threads == NULL || threads->process != getpid()) return;
  pthread_mutex_lock(&threads->lock);
  atomic_store(&threads->stop, true);
  pthread_cond_broadcast(&threads->wake);
  pthread_mutex_unlock(&threads->lock);
  for (size_t i = 1; i < threads->count; ++i) pthread_join(threads->helpers[i].thread, NULL);
  pthread_cond_destroy(&threads->wake);
  pthread_mutex_destroy(&threads->lock);
}

size_t edge_thread_count(const edge_threads *threads) { return threads != NULL ? threads->count : 1; }

void edge_parallel(edge_threads *threads, size_t tasks, edge_task_fn task, void *context) {
  if (threads == NULL || threads->count < 2 || tasks < 2 || threads->process != getpid()) {
    for (size_t i = 0; i < tasks; ++i) task(context, i, 0);
    return;
  }
  threads->tasks = tasks;
  threads->task = task;
  threads->context = context;
  atomic_store_explicit(&threads->next, 0, memory_order_relaxed);
  const uint32_t closed = atomic_load(&threads->word);
  atomic_store(&threads->word, (closed / JOB + 1) * JOB | OPEN);
  if (atomic_load(&threads->sleeping) > 0) {
    pthread_mutex_lock(&threads->lock);
    pthread_cond_broadcast(&threads->wake);
    pthread_mutex_unlock(&threads->lock);
  }
  work(threads, 0);
  atomic_fetch_and(&threads->word, ~OPEN);
  for (int looks = 0; atomic_load(&threads->word) & INSIDE; ++looks) {
    if (looks < LOOKS) {
      pause_briefly();
    } else {
      sched_yield();
    }
  }
}

#endif
