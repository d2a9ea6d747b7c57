/* Lets the n-th operation on a file fail, in one of the processes of a run, whoever does it: Python, or a native library.

TORTURE_ROOT: only files below it count. TORTURE_PROCESS: "program" or "worker". TORTURE_N: which operation fails, from
1 on; none when it is 0. TORTURE_ERRNO: how. TORTURE_STICKY: "1" lets every later one fail too, as a full disk does.
TORTURE_COUNTS: a path; PATH.program and PATH.worker hold how many operations there have been, as eight bytes, and
PATH.operations gets a line for each that failed, or for all when none is to fail: process, n, operation, path.

An operation is a write of any kind, a sync, a rename, a link, a new folder, a new length or a file opened for writing.
It is loaded into every process of the run (LD_PRELOAD) and stands before the C library's functions. A fork calls
`torture_begin`, once its environment is that of the run. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define ORIGINAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static const char *root, *process;
static long fails_at;
static int code, sticky, told = -1;
static atomic_long *n_done; /* shared by the processes of one kind: a worker may be started twice */

static long number(const char *name) {
  const char *value = getenv(name);
  return value ? atol(value) : 0;
}

static const char *kind_of_process(void) {
  char line[1 << 16] = {0};
  int file = ORIGINAL(open)("/proc/self/cmdline", O_RDONLY);
  ssize_t length = read(file, line, sizeof line - 1);
  close(file);
  for (ssize_t at = 0; at < length; at += (ssize_t)strlen(line + at) + 1)
    if (!strcmp(line + at, "olivine.systems._worker")) return "worker";
  return "program";
}

__attribute__((constructor)) void torture_begin(void) {
  const char *counts = getenv("TORTURE_COUNTS"), *only = getenv("TORTURE_PROCESS");
  char path[PATH_MAX];
  process = kind_of_process();
  if (!counts || (only && strcmp(only, process))) return;
  snprintf(path, sizeof path, "%s.operations", counts);
  told = ORIGINAL(open)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  snprintf(path, sizeof path, "%s.%s", counts, process);
  int file = ORIGINAL(open)(path, O_RDWR | O_CREAT, 0600);
  if (file < 0 || ORIGINAL(ftruncate)(file, sizeof *n_done)) abort();
  n_done = mmap(NULL, sizeof *n_done, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  fails_at = number("TORTURE_N"), code = (int)number("TORTURE_ERRNO"), sticky = (int)number("TORTURE_STICKY");
  root = getenv("TORTURE_ROOT");
}

/* One more operation on that path, which is absolute; whether it is to fail. */
static int fails(const char *operation, const char *path) {
  if (strncmp(path, root, strlen(root))) return 0;
  long n = atomic_fetch_add(n_done, 1) + 1;
  int is_to_fail = fails_at && (sticky ? n >= fails_at : n == fails_at);
  if (fails_at && !is_to_fail) return 0;
  dprintf(told, "%s %ld %s %s\n", process, n, operation, path + strlen(root));
  if (!is_to_fail) return 0;
  errno = code;
  return 1;
}

static int fails_open(const char *operation, int file) {
  char link[64], path[PATH_MAX];
  if (!root) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return fails(operation, path);
}

static int fails_named(const char *operation, int folder, const char *name) {
  char link[64] = "/proc/self/cwd", path[2 * PATH_MAX];
  if (!root || !name) return 0;
  if (*name == '/') return fails(operation, name);
  if (folder != AT_FDCWD) snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
  ssize_t length = readlink(link, path, PATH_MAX);
  if (length < 0) return 0;
  snprintf(path + length, sizeof path - (size_t)length, "/%s", name);
  return fails(operation, path);
}

#define NAMED(function, operation, folder, name, parameters, arguments)       \
  int function parameters {                                                   \
    return fails_named(operation, folder, name) ? -1 : ORIGINAL(function) arguments; \
  }
#define OPENED(type, function, file, parameters, arguments)                     \
  type function parameters {                                                    \
    return fails_open(#function, file) ? -1 : ORIGINAL(function) arguments;     \
  }
#define WITH_MODE(flags)                                         \
  va_list more;                                                  \
  va_start(more, flags);                                         \
  mode_t mode = (flags) & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
  va_end(more);                                                  \
  int writes = ((flags) & O_ACCMODE) != O_RDONLY;
#define OPEN(function)                                                        \
  int function(const char *name, int flags, ...) {                            \
    WITH_MODE(flags)                                                          \
    return writes && fails_named("open", AT_FDCWD, name) ? -1 : ORIGINAL(function)(name, flags, mode); \
  }
#define OPENAT(function)                                                      \
  int function(int folder, const char *name, int flags, ...) {                \
    WITH_MODE(flags)                                                          \
    return writes && fails_named("open", folder, name) ? -1 : ORIGINAL(function)(folder, name, flags, mode); \
  }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
OPENED(ssize_t, write, a, (int a, const void *b, size_t c), (a, b, c))
OPENED(ssize_t, writev, a, (int a, const struct iovec *b, int c), (a, b, c))
OPENED(ssize_t, pwrite, a, (int a, const void *b, size_t c, off_t d), (a, b, c, d))
OPENED(ssize_t, pwrite64, a, (int a, const void *b, size_t c, off64_t d), (a, b, c, d))
OPENED(ssize_t, sendfile, a, (int a, int b, off_t *c, size_t d), (a, b, c, d))
OPENED(ssize_t, sendfile64, a, (int a, int b, off64_t *c, size_t d), (a, b, c, d))
OPENED(ssize_t, copy_file_range, c, (int a, off64_t *b, int c, off64_t *d, size_t e, unsigned f), (a, b, c, d, e, f))
OPENED(int, fsync, a, (int a), (a))
OPENED(int, fdatasync, a, (int a), (a))
OPENED(int, ftruncate, a, (int a, off_t b), (a, b))
OPENED(int, ftruncate64, a, (int a, off64_t b), (a, b))
NAMED(rename, "rename", AT_FDCWD, b, (const char *a, const char *b), (a, b))
NAMED(renameat, "rename", c, d, (int a, const char *b, int c, const char *d), (a, b, c, d))
NAMED(link, "link", AT_FDCWD, b, (const char *a, const char *b), (a, b))
NAMED(linkat, "link", c, d, (int a, const char *b, int c, const char *d, int e), (a, b, c, d, e))
NAMED(mkdir, "mkdir", AT_FDCWD, a, (const char *a, mode_t b), (a, b))
NAMED(mkdirat, "mkdir", a, b, (int a, const char *b, mode_t c), (a, b, c))
