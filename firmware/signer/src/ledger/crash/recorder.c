/* Writes down every change that a process makes to the files of one folder, in the order in which it makes them.
 *
 * For the test of power cuts alone: it is loaded in front of the C library of a child of the test (LD_PRELOAD) and is no
 * part of the product. The folder is in HEARTH_RECORD_DIR, the record goes to HEARTH_RECORD_LOG.
 *
 * Each entry: kind (1 byte), descriptor (4), number (8), length (4), then so many bytes; all little-endian.
 *   O open (number: flags, bytes: name within the folder)   W write (number: offset)   T truncate (number: length)
 *   S sync   C close   U unlink (bytes: name)   R rename (bytes: old name, zero, new name)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char watched[MOST];
static const char *folder;
static int record = -1;

static void put(char kind, int fd, uint64_t number, const void *bytes, uint32_t length)
{
	unsigned char head[17];
	size_t done = 0;
	head[0] = (unsigned char)kind;
	memcpy(head + 1, &fd, 4);
	memcpy(head + 5, &number, 8);
	memcpy(head + 13, &length, 4);
	if (syscall(SYS_write, record, head, sizeof head) != (long)sizeof head)
		abort();
	while (done < length) {
		long count = syscall(SYS_write, record, (const char *)bytes + done, length - done);
		if (count <= 0)
			abort();
		done += (size_t)count;
	}
}

/* The name within the folder, or nothing when the path is elsewhere. Called with the lock held. */
static const char *inside(const char *path)
{
	size_t length;
	if (record == -1) {
		const char *log = getenv("HEARTH_RECORD_LOG");
		folder = getenv("HEARTH_RECORD_DIR");
		record = -2;
		if (folder && log)
			record = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	}
	if (record < 0 || !path)
		return NULL;
	length = strlen(folder);
	if (strncmp(path, folder, length) != 0)
		return NULL;
	if (path[length] == 0)
		return path + length;
	return path[length] == '/' ? path + length + 1 : NULL;
}

static int is_watched(int fd)
{
	return fd >= 0 && fd < MOST && watched[fd];
}

#define REAL(name, type, ...)                                  \
	static type (*real)(__VA_ARGS__);                      \
	if (!real)                                             \
		real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name);

static int opened(int fd, const char *path, int flags)
{
	const char *name;
	if (fd < 0)
		return fd;
	pthread_mutex_lock(&lock);
	name = inside(path);
	if (name) {
		if (fd >= MOST)
			abort();
		watched[fd] = 1;
		put('O', fd, (uint64_t)flags, name, (uint32_t)strlen(name));
	}
	pthread_mutex_unlock(&lock);
	return fd;
}

static mode_t mode_of(int flags, va_list rest)
{
	return (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0;
}

#define OPEN(function)                                         \
	int function(const char *path, int flags, ...)         \
	{                                                      \
		va_list rest;                                  \
		mode_t mode;                                   \
		REAL(#function, int, const char *, int, ...)   \
		va_start(rest, flags);                         \
		mode = mode_of(flags, rest);                   \
		va_end(rest);                                  \
		return opened(real(path, flags, mode), path, flags); \
	}
OPEN(open)
OPEN(open64)

#define OPENAT(function)                                       \
	int function(int dir, const char *path, int flags, ...) \
	{                                                      \
		va_list rest;                                  \
		mode_t mode;                                   \
		REAL(#function, int, int, const char *, int, ...) \
		va_start(rest, flags);                         \
		mode = mode_of(flags, rest);                   \
		va_end(rest);                                  \
		return opened(real(dir, path, flags, mode), path, flags); \
	}
OPENAT(openat)
OPENAT(openat64)

int close(int fd)
{
	int result;
	REAL("close", int, int)
	pthread_mutex_lock(&lock);
	if (is_watched(fd)) {
		watched[fd] = 0;
		put('C', fd, 0, NULL, 0);
	}
	result = real(fd);
	pthread_mutex_unlock(&lock);
	return result;
}

ssize_t write(int fd, const void *bytes, size_t length)
{
	ssize_t count;
	REAL("write", ssize_t, int, const void *, size_t)
	if (!is_watched(fd))
		return real(fd, bytes, length);
	pthread_mutex_lock(&lock);
	off_t offset = lseek(fd, 0, SEEK_CUR);
	if (fcntl(fd, F_GETFL) & O_APPEND)
		offset = lseek(fd, 0, SEEK_END);
	count = real(fd, bytes, length);
	if (count > 0)
		put('W', fd, (uint64_t)offset, bytes, (uint32_t)count);
	pthread_mutex_unlock(&lock);
	return count;
}

/* A vector of buffers would be a second way of writing; nothing that is recorded uses it. */
ssize_t writev(int fd, const struct iovec *parts, int count)
{
	REAL("writev", ssize_t, int, const struct iovec *, int)
	if (is_watched(fd))
		abort();
	return real(fd, parts, count);
}

#define PWRITE(function)                                       \
	ssize_t function(int fd, const void *bytes, size_t length, off_t offset) \
	{                                                      \
		ssize_t count;                                 \
		REAL(#function, ssize_t, int, const void *, size_t, off_t) \
		if (!is_watched(fd))                           \
			return real(fd, bytes, length, offset); \
		pthread_mutex_lock(&lock);                     \
		count = real(fd, bytes, length, offset);       \
		if (count > 0)                                 \
			put('W', fd, (uint64_t)offset, bytes, (uint32_t)count); \
		pthread_mutex_unlock(&lock);                   \
		return count;                                  \
	}
PWRITE(pwrite)
PWRITE(pwrite64)

#define TRUNCATE(function)                                     \
	int function(int fd, off_t length)                     \
	{                                                      \
		int result;                                    \
		REAL(#function, int, int, off_t)               \
		if (!is_watched(fd))                           \
			return real(fd, length);               \
		pthread_mutex_lock(&lock);                     \
		result = real(fd, length);                     \
		if (result == 0)                               \
			put('T', fd, (uint64_t)length, NULL, 0); \
		pthread_mutex_unlock(&lock);                   \
		return result;                                 \
	}
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

#define SYNC(function)                                         \
	int function(int fd)                                   \
	{                                                      \
		int result;                                    \
		REAL(#function, int, int)                      \
		if (!is_watched(fd))                           \
			return real(fd);                       \
		pthread_mutex_lock(&lock);                     \
		result = real(fd);                             \
		if (result == 0)                               \
			put('S', fd, 0, NULL, 0);              \
		pthread_mutex_unlock(&lock);                   \
		return result;                                 \
	}
SYNC(fsync)
SYNC(fdatasync)

int unlink(const char *path)
{
	int result;
	const char *name;
	REAL("unlink", int, const char *)
	pthread_mutex_lock(&lock);
	result = real(path);
	name = inside(path);
	if (result == 0 && name)
		put('U', -1, 0, name, (uint32_t)strlen(name));
	pthread_mutex_unlock(&lock);
	return result;
}

int rename(const char *from, const char *to)
{
	int result;
	const char *old, *new;
	char both[512];
	REAL("rename", int, const char *, const char *)
	pthread_mutex_lock(&lock);
	result = real(from, to);
	old = inside(from);
	new = inside(to);
	if (result == 0 && old && new) {
		size_t first = strlen(old), second = strlen(new);
		if (first + second + 1 > sizeof both)
			abort();
		memcpy(both, old, first + 1);
		memcpy(both + first + 1, new, second);
		put('R', -1, 0, both, (uint32_t)(first + second + 1));
	}
	pthread_mutex_unlock(&lock);
	return result;
}
