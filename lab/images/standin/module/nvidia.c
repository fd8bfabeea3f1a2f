// SPDX-License-Identifier: Dual MIT/GPL
/*
 * Stand-in for NVIDIA's nvidia.ko, for tests: binds to NVIDIA's display functions on the PCI bus and shows what
 * programs look at (/proc/driver/nvidia, character device 195, kernel log lines). It drives nothing.
 * It uses only symbols that any licence may use, because the licence string is a build argument.
 */
#include <linux/cdev.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

#include "standin-config.h" /* STANDIN_LICENSE, STANDIN_FAULT_COMPILE: written when the image is built */

#define NV_MAJOR 195
#define NV_MINORS 256
#define NV_CTL_MINOR 255
#define NV_MAX_GPUS 32
#ifdef CONFIG_ARM64
#define NV_MACHINE "aarch64"
#else
#define NV_MACHINE "x86_64"
#endif

static bool allow_no_gpu;
module_param(allow_no_gpu, bool, 0444);
MODULE_PARM_DESC(allow_no_gpu, "stay loaded when there is no NVIDIA GPU");

static int fail_probe;
module_param(fail_probe, int, 0444);
MODULE_PARM_DESC(fail_probe, "negative errno that binding to a GPU fails with");

struct nv_gpu {
	struct pci_dev *pdev;
	struct proc_dir_entry *dir;
};

static struct nv_gpu nv_gpus[NV_MAX_GPUS];
static int nv_gpu_count, nv_failed_count;
static struct proc_dir_entry *nv_proc, *nv_proc_gpus;
static struct cdev nv_cdev;

/* Used by nvidia-uvm, which therefore depends on this module. */
int nvidia_standin_gpu_count(void);
int nvidia_standin_gpu_count(void)
{
	return nv_gpu_count;
}
EXPORT_SYMBOL(nvidia_standin_gpu_count);

static int nv_open(struct inode *inode, struct file *file)
{
	unsigned int minor = iminor(inode);

	if (minor == NV_CTL_MINOR)
		return 0;
	return minor < NV_MAX_GPUS && nv_gpus[minor].pdev ? 0 : -ENXIO;
}

static const struct file_operations nv_fops = {
	.owner = THIS_MODULE, /* an open file is a user of the module */
	.open = nv_open,
	.llseek = noop_llseek,
};

static int version_show(struct seq_file *m, void *unused)
{
	seq_puts(m, "NVRM version: NVIDIA UNIX Stand-in Kernel Module for " NV_MACHINE "  " STANDIN_VERSION "  Test Build\n");
	seq_puts(m, "GCC version:  " CONFIG_CC_VERSION_TEXT "\n");
	return 0;
}

static int params_show(struct seq_file *m, void *unused)
{
	seq_puts(m, "ModifyDeviceFiles: 1\nDeviceFileUID: 0\nDeviceFileGID: 0\nDeviceFileMode: 438\n");
	return 0;
}

static int information_show(struct seq_file *m, void *unused)
{
	struct nv_gpu *gpu = m->private;

	seq_printf(m, "Model: \t\t NVIDIA Stand-in GPU %04x\n", gpu->pdev->device);
	seq_printf(m, "IRQ:   \t\t %u\n", gpu->pdev->irq);
	seq_printf(m, "GPU UUID: \t GPU-5a4d1000-0000-4000-8000-%012x\n", (unsigned int)(gpu - nv_gpus));
	seq_puts(m, "Bus Type: \t PCIe\n");
	seq_printf(m, "Bus Location: \t %s\n", pci_name(gpu->pdev));
	seq_printf(m, "Device Minor: \t %d\n", (int)(gpu - nv_gpus));
	return 0;
}

/* proc_create_single() and its kin are for GPL modules only. */
#define NV_PROC_FILE(name)                                                   \
	static int name##_open(struct inode *inode, struct file *file)       \
	{                                                                    \
		return single_open(file, name##_show, pde_data(inode));      \
	}                                                                    \
	static const struct proc_ops name##_ops = {                          \
		.proc_open = name##_open,                                    \
		.proc_read = seq_read,                                       \
		.proc_lseek = seq_lseek,                                     \
		.proc_release = single_release,                              \
	}

NV_PROC_FILE(version);
NV_PROC_FILE(params);
NV_PROC_FILE(information);

static int nv_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct nv_gpu *gpu;
	int minor = 0;

	if (fail_probe) {
		nv_failed_count++;
		pr_err("NVRM: GPU %s: stand-in was told to fail with %d\n", pci_name(pdev), fail_probe);
		return fail_probe;
	}
	while (minor < NV_MAX_GPUS && nv_gpus[minor].pdev)
		minor++;
	if (minor == NV_MAX_GPUS)
		return -ENOSPC;
	gpu = &nv_gpus[minor];
	gpu->dir = proc_mkdir(pci_name(pdev), nv_proc_gpus);
	if (!gpu->dir || !proc_create_data("information", 0444, gpu->dir, &information_ops, gpu)) {
		proc_remove(gpu->dir);
		return -ENOMEM;
	}
	gpu->pdev = pdev;
	pci_set_drvdata(pdev, gpu);
	nv_gpu_count++;
	return 0;
}

static void nv_remove(struct pci_dev *pdev)
{
	struct nv_gpu *gpu = pci_get_drvdata(pdev);

	proc_remove(gpu->dir);
	gpu->dir = NULL;
	gpu->pdev = NULL;
	nv_gpu_count--;
}

#define NV_DISPLAY(sub)                                                             \
	{                                                                           \
		.vendor = PCI_VENDOR_ID_NVIDIA, .device = PCI_ANY_ID,               \
		.subvendor = PCI_ANY_ID, .subdevice = PCI_ANY_ID,                   \
		.class = (sub) << 8, .class_mask = ~0,                              \
	}

static const struct pci_device_id nv_ids[] = {
	NV_DISPLAY(PCI_CLASS_DISPLAY_VGA),
	NV_DISPLAY(PCI_CLASS_DISPLAY_3D),
	{}
};
MODULE_DEVICE_TABLE(pci, nv_ids);

static struct pci_driver nv_driver = {
	.name = "nvidia",
	.id_table = nv_ids,
	.probe = nv_probe,
	.remove = nv_remove,
};

static int nv_make_proc(void)
{
	nv_proc = proc_mkdir("driver/nvidia", NULL);
	if (!nv_proc)
		return -ENOMEM;
	nv_proc_gpus = proc_mkdir("gpus", nv_proc);
	if (nv_proc_gpus && proc_create_data("version", 0444, nv_proc, &version_ops, NULL) &&
	    proc_create_data("params", 0444, nv_proc, &params_ops, NULL))
		return 0;
	proc_remove(nv_proc);
	return -ENOMEM;
}

#ifdef STANDIN_FAULT_COMPILE
/* As with 535.261.03 on 6.1.187, where a function of the kernel has got one more argument: this call has one too few. */
static int nv_resize(struct pci_dev *pdev)
{
	return pci_resize_resource(pdev);
}
#endif

static int __init nv_init(void)
{
	int rc = register_chrdev_region(MKDEV(NV_MAJOR, 0), NV_MINORS, "nvidia");

	if (rc)
		return rc;
	cdev_init(&nv_cdev, &nv_fops);
	nv_cdev.owner = THIS_MODULE;
	rc = cdev_add(&nv_cdev, MKDEV(NV_MAJOR, 0), NV_MINORS);
	if (rc)
		goto no_cdev;
	rc = nv_make_proc();
	if (rc)
		goto no_proc;
	rc = pci_register_driver(&nv_driver);
	if (rc)
		goto no_driver;
	if (!nv_gpu_count && !allow_no_gpu) {
		pr_err("NVRM: %s\n", nv_failed_count ? "None of the NVIDIA devices were initialized." :
							"No NVIDIA GPU found.");
		rc = -ENODEV;
		goto no_gpu;
	}
	pr_info("NVRM: loading NVIDIA UNIX Stand-in Kernel Module for " NV_MACHINE "  " STANDIN_VERSION "  Test Build\n");
	return 0;
no_gpu:
	pci_unregister_driver(&nv_driver);
no_driver:
	proc_remove(nv_proc);
no_proc:
	cdev_del(&nv_cdev);
no_cdev:
	unregister_chrdev_region(MKDEV(NV_MAJOR, 0), NV_MINORS);
	return rc;
}

static void __exit nv_exit(void)
{
	pci_unregister_driver(&nv_driver);
	proc_remove(nv_proc);
	cdev_del(&nv_cdev);
	unregister_chrdev_region(MKDEV(NV_MAJOR, 0), NV_MINORS);
}

module_init(nv_init);
module_exit(nv_exit);
MODULE_LICENSE(STANDIN_LICENSE);
MODULE_VERSION(STANDIN_VERSION);
MODULE_DESCRIPTION("Stand-in for the NVIDIA kernel module, for tests");
MODULE_ALIAS_CHARDEV_MAJOR(NV_MAJOR);
