/* What this machine's core can do at best, measured: the roofs that a profile is compared with. */
#ifndef EDGE_PEAK_H
#define EDGE_PEAK_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EDGE_PEAK_RATES 4

/* Multiply-accumulates a second of one instruction sequence, as "vpmaddubsw+vpaddw". */
typedef struct edge_rate {
  const char *name;
  double macs_per_second;
} edge_rate;

typedef struct edge_peak {
  edge_rate int8[EDGE_PEAK_RATES]; /* the sequences that this CPU has, `int8_count` of them */
  size_t int8_count;
  edge_rate float32[EDGE_PEAK_RATES]; /* a multiplication and an addition, rounded apart as in the operators */
  size_t float32_count;
  double read_bytes_per_second; /* sequential, of the buffer given */
} edge_peak;

/* Seconds of a steady clock. */
typedef double (*edge_clock)(void);

/* Measures on the calling thread, the best of many short spells, `seconds` for each rate.
 *
 * `buffer` is read from end to end: make it much larger than the caches that are to be left out. It must have been
 * written, or the system gives one page of zeros for all of it. */
void edge_measure_peak(edge_clock clock, double seconds, const void *buffer, size_t bytes, edge_peak *peak);

#ifdef __cplusplus
}
#endif
#endif
