/* An audit library of the dynamic linker (LD_AUDIT, rtld-audit(7)) that hides what an x86-64 CPU has beyond AVX2.
 *
 * Engines choose their kernels by the CPUID instruction, which a program cannot be kept from. So each CPUID of an object
 * becomes a breakpoint when the object is mapped: that is before its relocation, whose resolvers ask CPUID too, and
 * before its constructors. The breakpoint's handler asks the CPU and clears the bits of the newer extensions.
 *
 * Which bytes are instructions is told by a disassembly, which EXAMINE writes once an object; see cpu_features.py, which
 * compiles this file with the paths PYTHON, EXAMINE, OBJDUMP and FOLDER. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define BIT(n) (1u << (n))

enum { MOST_SITES = 1 << 16 };
static uintptr_t sites[MOST_SITES];
static atomic_size_t site_count;

/* Nothing may run half hidden: its figures would be taken for what they are not. */
static void fail(const char *object, const char *why) {
  dprintf(STDERR_FILENO, "cpu_features: %s: %s\n", object, why);
  _exit(70);
}

/* Clears what came after AVX2. The vector forms of GFNI, AES and CLMUL are of the same later generation. */
static void hide(uint32_t leaf, uint32_t subleaf, uint32_t r[4]) {
  if (leaf == 7 && subleaf == 0) {
    /* AVX512: F, DQ, IFMA, PF, ER, CD, BW, VL */
    r[1] &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
    /* VBMI, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ */
    r[2] &= ~(BIT(1) | BIT(6) | BIT(8) | BIT(9) | BIT(10) | BIT(11) | BIT(12) | BIT(14));
    /* 4VNNIW, 4FMAPS, VP2INTERSECT, AMX-BF16, AVX512-FP16, AMX-TILE, AMX-INT8 */
    r[3] &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));
  } else if (leaf == 7 && subleaf == 1) {
    r[0] &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23)); /* AVX-VNNI, AVX512-BF16, AMX-FP16, AVX-IFMA */
    /* AVX-VNNI-INT8, AVX-NE-CONVERT, AMX-COMPLEX, AVX-VNNI-INT16, AVX10, APX */
    r[3] &= ~(BIT(4) | BIT(5) | BIT(8) | BIT(10) | BIT(19) | BIT(21));
  } else if (leaf == 0xd && subleaf == 0) {
    r[0] &= ~(BIT(5) | BIT(6) | BIT(7) | BIT(17) | BIT(18) | BIT(19)); /* state of AVX-512, AMX and APX */
  } else if (leaf == 0x1d || leaf == 0x1e || leaf == 0x24) {           /* AMX, AVX10 */
    memset(r, 0, 4 * sizeof *r);
  } else if (leaf == 0x8000001a) {
    r[0] &= ~BIT(3); /* 512-bit data paths */
  }
}

/* Whether this thread holds state that only AVX-512 writes: a mask, or the registers and halves that AVX2 lacks. -1: the
 * CPU does not tell. For a check afterwards, by whoever loads this as a plain library. */
int avx512_in_use(void) {
  uint32_t a, b, c, d;
  if (!__get_cpuid_count(0xd, 1, &a, &b, &c, &d) || !(a & BIT(2))) return -1;
  __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(1)); /* XINUSE */
  return (a & (BIT(5) | BIT(6) | BIT(7))) != 0;
}

static void on_trap(int number, siginfo_t *information, void *context) {
  (void)information;
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  const uintptr_t site = (uintptr_t)registers[REG_RIP] - 1; /* the breakpoint is one byte */
  const size_t count = atomic_load(&site_count);
  for (size_t i = 0; i < count; ++i) {
    if (sites[i] != site) continue;
    const uint32_t leaf = (uint32_t)registers[REG_RAX], subleaf = (uint32_t)registers[REG_RCX];
    uint32_t r[4];
    __cpuid_count(leaf, subleaf, r[0], r[1], r[2], r[3]);
    hide(leaf, subleaf, r);
    registers[REG_RAX] = r[0];
    registers[REG_RBX] = r[1];
    registers[REG_RCX] = r[2];
    registers[REG_RDX] = r[3];
    return; /* at the nop */
  }
  signal(number, SIG_DFL); /* somebody's own breakpoint */
  raise(number);
}

/* Has the addresses of an object's CPUID instructions written into the file `told`, by a process that is not audited. */
static void examine(const char *path, const char *told) {
  static char *bare[] = {NULL};
  char *words[] = {PYTHON, "-I", "-S", EXAMINE, "examine", OBJDUMP, (char *)path, (char *)told, NULL};
  pid_t child;
  int status = -1;
  if (posix_spawn(&child, PYTHON, NULL, NULL, words, bare) != 0) fail(path, "cannot start " PYTHON);
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  if (status != 0) fail(path, "its CPUID instructions could not be found");
}

static void patch(const char *path, uint8_t *site) {
  static const uint8_t instruction[] = {0x0f, 0xa2}, breakpoint[] = {0xcc, 0x90};
  const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
  const size_t count = atomic_load(&site_count);
  uint8_t *start = (uint8_t *)((uintptr_t)site & ~(page - 1));
  const size_t size = (size_t)(site + 2 - start);
  if (memcmp(site, instruction, 2) != 0) fail(path, "not the bytes of its file");
  if (count == MOST_SITES) fail(path, "too many CPUID instructions");
  sites[count] = (uintptr_t)site;
  atomic_store(&site_count, count + 1);
  if (mprotect(start, size, PROT_READ | PROT_WRITE | PROT_EXEC) != 0) fail(path, strerror(errno));
  memcpy(site, breakpoint, 2);
  mprotect(start, size, PROT_READ | PROT_EXEC);
}

unsigned int la_version(unsigned int version) {
  (void)version;
  return LAV_CURRENT;
}

unsigned int la_objopen(struct link_map *map, Lmid_t space, uintptr_t *cookie) {
  (void)space, (void)cookie;
  const char *path = map->l_name[0] ? map->l_name : "/proc/self/exe";
  char resolved[4096], told[4096];
  struct stat file;
  if (strchr(path, '/') == NULL) return 0; /* the kernel's own object, which has no file */
  if (realpath(path, resolved) == NULL || stat(resolved, &file) != 0) fail(path, strerror(errno));
  snprintf(told, sizeof told, FOLDER "/%lx-%lx-%lx-%lx.%09lx", (long)file.st_dev, (long)file.st_ino, (long)file.st_size,
           (long)file.st_mtim.tv_sec, (long)file.st_mtim.tv_nsec);
  FILE *list = fopen(told, "re");
  if (list == NULL) {
    examine(resolved, told);
    list = fopen(told, "re");
    if (list == NULL) fail(told, strerror(errno));
  }
  /* Again at each object: a program may have taken the signal since. */
  struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
  sigaction(SIGTRAP, &action, NULL);
  for (unsigned long address; fscanf(list, "%lx", &address) == 1;) patch(resolved, (uint8_t *)map->l_addr + address);
  fclose(list);
  return 0; /* no symbol is watched: calls go as they would without an audit */
}
