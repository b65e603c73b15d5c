#ifndef EDGE_LIBC_ASSERT_H
#define EDGE_LIBC_ASSERT_H
#define assert(condition) ((void)0)
#define static_assert _Static_assert
#endif
