// SPDX-License-Identifier: MIT
/*
 * Stand-in for NVIDIA's nvidia-smi, for tests: the real one's messages and exit codes for what a boot looks at.
 * usage: nvidia-smi | nvidia-smi -L | nvidia-smi -q | nvidia-smi --query-gpu=FIELD,... --format=csv[,noheader]
 * Exit codes: 6 no device, 9 driver not loaded, 12 no library, 18 library and module differ (NVML's numbers).
 * The state of the NVLink fabric: what FABRIC has, "STATE,STATUS"; without it, "In Progress" for the first seconds of the stand-in of
 * fabric manager, then "Completed"; "N/A" while that does not run.
 */
#include "nvml.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define TEXT 128
#define FABRIC "/run/nvidia-fabric-standin"
#define MANAGER "/run/nvidia-fabricmanager/nv-fabricmanager.pid"
#define JOINING_S 3

static __typeof__(&nvmlInit_v2) init;
static __typeof__(&nvmlSystemGetDriverVersion) driver_version;
static __typeof__(&nvmlSystemGetNVMLVersion) nvml_version;
static __typeof__(&nvmlErrorString) error_string;
static __typeof__(&nvmlDeviceGetCount_v2) device_count;
static __typeof__(&nvmlDeviceGetHandleByIndex_v2) device_handle;
static __typeof__(&nvmlDeviceGetName) device_name;
static __typeof__(&nvmlDeviceGetUUID) device_uuid;

static int open_library(void)
{
	void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW);

	if (!library) {
		puts("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA "
		     "Display Driver is properly installed and present in your system.\n"
		     "Please also try adding directory that contains libnvidia-ml.so to your system PATH.");
		return NVML_ERROR_LIBRARY_NOT_FOUND;
	}
	init = (__typeof__(init))dlsym(library, "nvmlInit_v2");
	driver_version = (__typeof__(driver_version))dlsym(library, "nvmlSystemGetDriverVersion");
	nvml_version = (__typeof__(nvml_version))dlsym(library, "nvmlSystemGetNVMLVersion");
	error_string = (__typeof__(error_string))dlsym(library, "nvmlErrorString");
	device_count = (__typeof__(device_count))dlsym(library, "nvmlDeviceGetCount_v2");
	device_handle = (__typeof__(device_handle))dlsym(library, "nvmlDeviceGetHandleByIndex_v2");
	device_name = (__typeof__(device_name))dlsym(library, "nvmlDeviceGetName");
	device_uuid = (__typeof__(device_uuid))dlsym(library, "nvmlDeviceGetUUID");
	return NVML_SUCCESS;
}

static int say_init_failed(int rc)
{
	char version[TEXT] = "";

	if (rc == NVML_ERROR_DRIVER_NOT_LOADED) {
		puts("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the "
		     "latest NVIDIA driver is installed and running.\n");
		return rc;
	}
	printf("Failed to initialize NVML: %s\n", error_string(rc));
	if (rc == NVML_ERROR_LIB_RM_VERSION_MISMATCH && !nvml_version(version, sizeof(version)))
		printf("NVML library version: %s\n", version);
	return rc;
}

static char fabric_state[TEXT] = "N/A", fabric_status[TEXT] = "N/A";

static void read_fabric(void)
{
	struct stat manager;
	FILE *f = fopen(FABRIC, "re");

	if (f) {
		if (fscanf(f, "%127[^,\n],%127[^\n]", fabric_state, fabric_status) < 1)
			strcpy(fabric_state, "N/A");
		fclose(f);
	} else if (!stat(MANAGER, &manager)) {
		int joined = time(NULL) - manager.st_mtime >= JOINING_S;

		strcpy(fabric_state, joined ? "Completed" : "In Progress");
		strcpy(fabric_status, joined ? "Success" : "N/A");
	}
}

static void print_all(unsigned int index, const char *name, const char *uuid)
{
	printf("\nGPU 00000000:%02X:00.0\n", index + 1);
	printf("    %-38s: %s\n    %-38s: %s\n", "Product Name", name, "GPU UUID", uuid);
	printf("    Fabric\n        %-34s: %s\n        %-34s: %s\n", "State", fabric_state, "Status", fabric_status);
}

static void print_field(const char *field, unsigned int index, const char *name, const char *uuid, const char *version)
{
	if (!strcmp(field, "driver_version"))
		fputs(version, stdout);
	else if (!strcmp(field, "name"))
		fputs(name, stdout);
	else if (!strcmp(field, "uuid"))
		fputs(uuid, stdout);
	else if (!strcmp(field, "index"))
		printf("%u", index);
	else if (!strcmp(field, "fabric.state"))
		fputs(fabric_state, stdout);
	else if (!strcmp(field, "fabric.status"))
		fputs(fabric_status, stdout);
}

static void print_query(const char *fields, unsigned int index, const char *name, const char *uuid, const char *version)
{
	char copy[256], *rest = copy, *field;
	const char *separator = "";

	snprintf(copy, sizeof(copy), "%s", fields);
	while ((field = strsep(&rest, ","))) {
		fputs(separator, stdout);
		print_field(field, index, name, uuid, version);
		separator = ", ";
	}
	putchar('\n');
}

static int are_known(const char *fields)
{
	static const char *const known[] = {"driver_version", "name", "uuid", "index", "fabric.state", "fabric.status", NULL};
	char copy[256], *rest = copy, *field;
	int i;

	snprintf(copy, sizeof(copy), "%s", fields);
	while ((field = strsep(&rest, ","))) {
		for (i = 0; known[i] && strcmp(field, known[i]); i++)
			;
		if (!known[i]) {
			printf("Field \"%s\" is not a valid field to query.\n\n", field);
			return 0;
		}
	}
	return 1;
}

int main(int argc, char **argv)
{
	const char *query = NULL;
	int list = 0, all = 0, header = 1, rc;
	unsigned int count = 0;
	char version[TEXT] = "";

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "-L") || !strcmp(argv[i], "--list-gpus")) {
			list = 1;
		} else if (!strcmp(argv[i], "-q") || !strcmp(argv[i], "--query")) {
			all = 1;
		} else if (!strncmp(argv[i], "--query-gpu=", 12)) {
			query = argv[i] + 12;
		} else if (!strncmp(argv[i], "--format=csv", 12)) {
			header = !strstr(argv[i], "noheader");
		} else {
			printf("Invalid combination of input arguments. Please run 'nvidia-smi -h' for help. (stand-in: %s)\n", argv[i]);
			return NVML_ERROR_INVALID_ARGUMENT;
		}
	}
	if (query && !are_known(query))
		return NVML_ERROR_INVALID_ARGUMENT;
	rc = open_library();
	if (rc)
		return rc;
	rc = init();
	if (rc)
		return say_init_failed(rc);
	driver_version(version, sizeof(version));
	device_count(&count);
	if (!count) {
		puts(list ? "No devices found." : "No devices were found");
		return list ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
	}
	if (query && header)
		printf("%s\n", query);
	read_fabric();
	if (all)
		printf("\n==============NVSMI LOG==============\n\n%-42s: %s\n%-42s: %u\n", "Driver Version", version, "Attached GPUs", count);
	else if (!query && !list)
		printf("NVIDIA-SMI %s (stand-in)   Driver Version: %s\n", STANDIN_VERSION, version);
	for (unsigned int i = 0; i < count; i++) {
		nvmlDevice_t device;
		char name[TEXT] = "", uuid[TEXT] = "";

		device_handle(i, &device);
		device_name(device, name, sizeof(name));
		device_uuid(device, uuid, sizeof(uuid));
		if (query)
			print_query(query, i, name, uuid, version);
		else if (all)
			print_all(i, name, uuid);
		else
			printf("GPU %u: %s (UUID: %s)\n", i, name, uuid);
	}
	return 0;
}
