/* Tries every way in which one process can look into another. For tests: built and run by attach.rs, no part of the product. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static void open_file(pid_t pid, const char *name, int flags)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
	errno = 0;
	int fd = open(path, flags);
	printf("%s %d\n", name, fd < 0 ? errno : 0);
	if (fd >= 0)
		close(fd);
}

int main(int count, char **arguments)
{
	char byte;
	struct iovec here = { &byte, 1 }, there = { (void *)0x1000, 1 };
	if (count != 2)
		return 2;
	pid_t pid = atoi(arguments[1]);
	open_file(pid, "mem", O_RDONLY);
	open_file(pid, "maps", O_RDONLY);
	open_file(pid, "environ", O_RDONLY);
	errno = 0;
	printf("process_vm_readv %d\n", process_vm_readv(pid, &here, 1, &there, 1, 0) < 0 ? errno : 0);
	errno = 0;
	long seized = ptrace(PTRACE_SEIZE, pid, 0, 0);
	printf("seize %d\n", seized < 0 ? errno : 0);
	errno = 0;
	if (seized < 0) {
		long attached = ptrace(PTRACE_ATTACH, pid, 0, 0);
		printf("attach %d\n", attached < 0 ? errno : 0);
		if (attached == 0) {
			waitpid(pid, NULL, 0);
			ptrace(PTRACE_DETACH, pid, 0, 0);
		}
	}
	return 0;
}
