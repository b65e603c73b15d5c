/* A small pool of threads that share the tasks of one operator at a time.
 *
 * Which thread takes which task varies from run to run; tasks write disjoint outputs and each computes its own as it
 * would alone, so results do not depend on the number of threads. A thread that finds nothing to do looks for the next
 * operator's tasks for some microseconds and then sleeps: an idle model costs nothing.
 *
 * A forked child runs everything on the caller, because its parent's threads are not there.
 *
 * Built without threads (EDGE_NO_THREADS: bare metal), everything runs on the caller.
 */
#ifndef EDGE_THREADS_H
#define EDGE_THREADS_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EDGE_MAX_THREADS 64

typedef struct edge_threads edge_threads;

/* Runs task `task` of those given to edge_parallel; `thread` is below edge_thread_count and no two tasks that run at
 * the same time have the same. */
typedef void (*edge_task_fn)(void *context, size_t task, size_t thread);

/* Memory for a pool of `count` threads, the caller's own among them. */
size_t edge_threads_bytes(size_t count);

/* Starts count - 1 threads, in the caller's memory of edge_threads_bytes(count) at a multiple of 64. Fewer where the
 * system gives no more. */
edge_threads *edge_threads_start(void *memory, size_t count);

/* Ends the threads; none may be at work. NULL is no pool. */
void edge_threads_stop(edge_threads *threads);

/* 1 for NULL. */
size_t edge_thread_count(const edge_threads *threads);

/* Runs tasks 0 .. tasks - 1 and returns when all are done. Not from within a task, and from one thread at a time. */
void edge_parallel(edge_threads *threads, size_t tasks, edge_task_fn task, void *context);

#ifdef __cplusplus
}
#endif
#endif
