/* Ends the process at its n-th change of a folder: before it, or after half of a write.

   Preloaded, so that it sees the calls of Python, C++ and Rust alike (but not C's own stdio).
   It does nothing until `crash_arm` is called. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static long seen, target;
static int armed, halves, log_file = -1;

#define REAL(type, name, ...) \
  static type (*real)(__VA_ARGS__); \
  if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static ssize_t plain_write(int fd, const void *bytes, size_t n) {
  REAL(ssize_t, write, int, const void *, size_t);
  return real(fd, bytes, n);
}

/* Changes of `path` are counted from now on; the `n`-th ends the process (none if 0). */
void crash_arm(const char *path, long n, int half, int log) {
  strncpy(folder, path, sizeof folder - 1);
  seen = 0, target = n, halves = half, log_file = log, armed = 1;
}

static int strikes(const char *name, const char *path) {
  size_t n = strlen(folder);
  if (strncmp(path, folder, n) || (path[n] != '/' && path[n])) return 0;
  seen++;
  if (log_file >= 0) {
    char line[PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%s\t%s\n", name, path[n] ? path + n + 1 : ".");
    plain_write(log_file, line, (size_t)length);
  }
  return seen == target;
}

static int of_descriptor(int fd, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, PATH_MAX - 1);
  if (n < 0) return 0;
  path[n] = 0;
  return 1;
}

static void at(const char *name, int where, const char *path) {
  if (!armed) return;
  char whole[2 * PATH_MAX + 2], start[PATH_MAX];
  if (path[0] == '/') snprintf(whole, sizeof whole, "%s", path);
  else {
    if (where == AT_FDCWD ? !getcwd(start, sizeof start) : !of_descriptor(where, start)) return;
    snprintf(whole, sizeof whole, "%s/%s", start, path);
  }
  if (strikes(name, whole)) _exit(137);
}

static void on(const char *name, int fd) {
  char path[PATH_MAX];
  if (armed && of_descriptor(fd, path) && strikes(name, path)) _exit(137);
}

static int strikes_write(int fd) {
  char path[PATH_MAX];
  return armed && of_descriptor(fd, path) && strikes("write", path);
}

ssize_t write(int fd, const void *bytes, size_t n) {
  if (strikes_write(fd)) {
    if (halves) plain_write(fd, bytes, n / 2);
    _exit(137);
  }
  return plain_write(fd, bytes, n);
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t offset) {
  REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
  if (strikes_write(fd)) {
    if (halves) real(fd, bytes, n / 2, offset);
    _exit(137);
  }
  return real(fd, bytes, n, offset);
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
  REAL(ssize_t, writev, int, const struct iovec *, int);
  if (strikes_write(fd)) {
    if (halves && n) plain_write(fd, parts[0].iov_base, (parts[0].iov_len + 1) / 2);
    _exit(137);
  }
  return real(fd, parts, n);
}

int fsync(int fd) { on("fsync", fd); REAL(int, fsync, int); return real(fd); }
int fdatasync(int fd) { on("fsync", fd); REAL(int, fdatasync, int); return real(fd); }
int ftruncate64(int fd, off64_t n) {
  on("truncate", fd); REAL(int, ftruncate64, int, off64_t); return real(fd, n);
}
int rename(const char *from, const char *to) {
  at("rename", AT_FDCWD, to); REAL(int, rename, const char *, const char *); return real(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
  at("rename", b, to);
  REAL(int, renameat, int, const char *, int, const char *);
  return real(a, from, b, to);
}
int link(const char *from, const char *to) {
  at("link", AT_FDCWD, to); REAL(int, link, const char *, const char *); return real(from, to);
}
int linkat(int a, const char *from, int b, const char *to, int flags) {
  at("link", b, to);
  REAL(int, linkat, int, const char *, int, const char *, int);
  return real(a, from, b, to, flags);
}
int unlink(const char *path) {
  at("unlink", AT_FDCWD, path); REAL(int, unlink, const char *); return real(path);
}
int unlinkat(int where, const char *path, int flags) {
  at("unlink", where, path); REAL(int, unlinkat, int, const char *, int);
  return real(where, path, flags);
}
int rmdir(const char *path) {
  at("rmdir", AT_FDCWD, path); REAL(int, rmdir, const char *); return real(path);
}
int mkdir(const char *path, mode_t mode) {
  at("mkdir", AT_FDCWD, path); REAL(int, mkdir, const char *, mode_t); return real(path, mode);
}
int mkdirat(int where, const char *path, mode_t mode) {
  at("mkdir", where, path); REAL(int, mkdirat, int, const char *, mode_t);
  return real(where, path, mode);
}
int chmod(const char *path, mode_t mode) {
  at("chmod", AT_FDCWD, path); REAL(int, chmod, const char *, mode_t); return real(path, mode);
}

#define MODE(flags) \
  mode_t mode = 0; \
  if ((flags) & (O_CREAT | __O_TMPFILE)) { \
    va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); \
  }
#define CHANGES(flags) ((flags) & (O_CREAT | O_TRUNC))

int open(const char *path, int flags, ...) {
  MODE(flags) REAL(int, open, const char *, int, ...);
  if (CHANGES(flags)) at("open", AT_FDCWD, path);
  return real(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
  MODE(flags) REAL(int, open64, const char *, int, ...);
  if (CHANGES(flags)) at("open", AT_FDCWD, path);
  return real(path, flags, mode);
}
int openat(int where, const char *path, int flags, ...) {
  MODE(flags) REAL(int, openat, int, const char *, int, ...);
  if (CHANGES(flags)) at("open", where, path);
  return real(where, path, flags, mode);
}
int openat64(int where, const char *path, int flags, ...) {
  MODE(flags) REAL(int, openat64, int, const char *, int, ...);
  if (CHANGES(flags)) at("open", where, path);
  return real(where, path, flags, mode);
}
