// SPDX-License-Identifier: MIT
/* Stand-in for NVIDIA's libnvidia-ml.so, for tests: reads what the kernel module (stand-in) shows in /proc and /sys. */
#define _GNU_SOURCE
#include "nvml.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_GPUS 32
#define GPUS "/proc/driver/nvidia/gpus"

struct nvmlDevice_st {
	char name[128], uuid[128];
};

static struct nvmlDevice_st gpus[MAX_GPUS];
static unsigned int gpu_count;
static char module_version[64];

static int read_line(const char *path, char *line, int size)
{
	FILE *f = fopen(path, "re");
	char *got;

	if (!f)
		return -1;
	got = fgets(line, size, f);
	fclose(f);
	if (!got)
		return -1;
	line[strcspn(line, "\n")] = 0;
	return 0;
}

/* Copies the value of `key` in a "Key: \t value" file. */
static void read_field(const char *path, const char *key, char *value, size_t size)
{
	char line[256];
	FILE *f = fopen(path, "re");

	snprintf(value, size, "unknown");
	if (!f)
		return;
	while (fgets(line, sizeof(line), f)) {
		if (strncmp(line, key, strlen(key)))
			continue;
		line[strcspn(line, "\n")] = 0;
		snprintf(value, size, "%s", line + strlen(key) + strspn(line + strlen(key), ": \t"));
		break;
	}
	fclose(f);
}

static void read_gpus(void)
{
	struct dirent **found;
	int n = scandir(GPUS, &found, NULL, alphasort);

	gpu_count = 0;
	for (int i = 0; i < n; i++) {
		if (found[i]->d_name[0] != '.' && gpu_count < MAX_GPUS) {
			char path[512];

			snprintf(path, sizeof(path), GPUS "/%s/information", found[i]->d_name);
			read_field(path, "Model", gpus[gpu_count].name, sizeof(gpus[gpu_count].name));
			read_field(path, "GPU UUID", gpus[gpu_count].uuid, sizeof(gpus[gpu_count].uuid));
			gpu_count++;
		}
		free(found[i]);
	}
	if (n >= 0)
		free(found);
}

static nvmlReturn_t copy_out(const char *text, char *out, unsigned int length)
{
	if (!out || strlen(text) >= length)
		return NVML_ERROR_INVALID_ARGUMENT;
	strcpy(out, text);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlInit_v2(void)
{
	if (read_line("/sys/module/nvidia/version", module_version, sizeof(module_version)))
		return NVML_ERROR_DRIVER_NOT_LOADED;
	if (strcmp(module_version, STANDIN_VERSION))
		return NVML_ERROR_LIB_RM_VERSION_MISMATCH;
	read_gpus();
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlShutdown(void)
{
	return NVML_SUCCESS;
}

const char *nvmlErrorString(nvmlReturn_t result)
{
	switch (result) {
	case NVML_SUCCESS: return "Success";
	case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
	case NVML_ERROR_NOT_FOUND: return "Not Found";
	case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
	case NVML_ERROR_LIBRARY_NOT_FOUND: return "Library Not Found";
	case NVML_ERROR_LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
	default: return "Unknown Error";
	}
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
	return copy_out(module_version, version, length);
}

nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
	return copy_out(STANDIN_VERSION, version, length);
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
	*count = gpu_count;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
	if (index >= gpu_count)
		return NVML_ERROR_INVALID_ARGUMENT;
	*device = &gpus[index];
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length)
{
	return copy_out(device->name, name, length);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length)
{
	return copy_out(device->uuid, uuid, length);
}
