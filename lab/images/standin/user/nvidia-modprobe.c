// SPDX-License-Identifier: MIT
/*
 * Stand-in for NVIDIA's nvidia-modprobe, for tests; installed setuid root like the real one.
 * usage: nvidia-modprobe [-s] [-u] [-c=MINOR | -cMINOR]...
 * Loads nvidia (with -u nvidia-uvm too) and makes /dev/nvidiactl, the nodes of the minors, and those of uvm.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define NV_MAJOR 195
#define NV_CTL_MINOR 255
#define NODE_MODE 0666

static int is_loaded(const char *module)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/module/%s/initstate", module);
	return access(path, F_OK) == 0;
}

/* An empty environment and full paths: the caller may be anybody. */
static int load(const char *module)
{
	static char *const nothing[] = { NULL };
	pid_t pid;
	int status;

	pid = fork();
	if (pid == 0) {
		execle("/sbin/modprobe", "modprobe", module, (char *)NULL, nothing);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status)) {
		fprintf(stderr, "nvidia-modprobe: cannot load the kernel module %s\n", module);
		return -1;
	}
	return 0;
}

static int make_node(const char *path, unsigned int major, unsigned int minor)
{
	struct stat st;

	if (!stat(path, &st)) {
		if (S_ISCHR(st.st_mode) && st.st_rdev == makedev(major, minor))
			return chmod(path, NODE_MODE);
		unlink(path);
	}
	if (mknod(path, S_IFCHR | NODE_MODE, makedev(major, minor)) || chmod(path, NODE_MODE)) {
		fprintf(stderr, "nvidia-modprobe: cannot make %s: %s\n", path, strerror(errno));
		return -1;
	}
	return 0;
}

/* The major number that /proc/devices gives `name`; -1 if none. */
static int major_of(const char *name)
{
	char line[128], found[64];
	int major, result = -1;
	FILE *f = fopen("/proc/devices", "re");

	if (!f)
		return -1;
	while (result < 0 && fgets(line, sizeof(line), f))
		if (sscanf(line, "%d %63s", &major, found) == 2 && !strcmp(found, name))
			result = major;
	fclose(f);
	return result;
}

static int make_uvm_nodes(void)
{
	int major = major_of("nvidia-uvm");

	if (major < 0) {
		fprintf(stderr, "nvidia-modprobe: /proc/devices has no nvidia-uvm\n");
		return -1;
	}
	return make_node("/dev/nvidia-uvm", major, 0) | make_node("/dev/nvidia-uvm-tools", major, 1);
}

int main(int argc, char **argv)
{
	unsigned int minors[32];
	int uvm = 0, count = 0, failed = 0, option;
	char path[64];

	while ((option = getopt(argc, argv, "suc:")) != -1) {
		if (option == 'u')
			uvm = 1;
		else if (option == 'c' && count < 32)
			minors[count++] = (unsigned int)atoi(optarg + (*optarg == '='));
		else if (option == '?')
			return 1;
	}
	if (setgid(0) || setuid(0))
		return 1;
	umask(0);
	if (!is_loaded("nvidia") && load("nvidia"))
		return 1;
	if (uvm && !is_loaded("nvidia_uvm") && load("nvidia-uvm"))
		return 1;
	failed |= make_node("/dev/nvidiactl", NV_MAJOR, NV_CTL_MINOR);
	for (int i = 0; i < count; i++) {
		snprintf(path, sizeof(path), "/dev/nvidia%u", minors[i]);
		failed |= make_node(path, NV_MAJOR, minors[i]);
	}
	if (uvm)
		failed |= make_uvm_nodes();
	return failed ? 1 : 0;
}
