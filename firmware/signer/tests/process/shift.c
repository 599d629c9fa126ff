/* Puts the wall clock of one process forward by the seconds in a file. For tests: built and run by passphrase.rs, no part of the product. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t id, struct timespec *at)
{
	static int (*real)(clockid_t, struct timespec *);
	long seconds = 0;
	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
	int outcome = real(id, at);
	const char *path = getenv("HEARTH_CLOCK_SHIFT");
	FILE *file = id == CLOCK_REALTIME && path ? fopen(path, "r") : NULL;
	if (file) {
		if (fscanf(file, "%ld", &seconds) == 1)
			at->tv_sec += seconds;
		fclose(file);
	}
	return outcome;
}
