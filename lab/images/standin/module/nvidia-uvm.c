// SPDX-License-Identifier: Dual MIT/GPL
/* Stand-in for NVIDIA's nvidia-uvm.ko, for tests: a character device and a dependency on nvidia, nothing more. */
#include <linux/fs.h>
#include <linux/module.h>

#include "standin-config.h"

#define UVM_NAME "nvidia-uvm"

int nvidia_standin_gpu_count(void); /* nvidia.c */

static int uvm_major;

static const struct file_operations uvm_fops = {
	.owner = THIS_MODULE,
	.llseek = noop_llseek,
};

static int __init uvm_init(void)
{
	uvm_major = register_chrdev(0, UVM_NAME, &uvm_fops);
	if (uvm_major < 0)
		return uvm_major;
	pr_info("nvidia-uvm: Loaded the UVM driver, major device number %d (stand-in, %d GPUs).\n", uvm_major,
		nvidia_standin_gpu_count());
	return 0;
}

static void __exit uvm_exit(void)
{
	unregister_chrdev(uvm_major, UVM_NAME);
	pr_info("nvidia-uvm: Unloaded the UVM driver.\n");
}

module_init(uvm_init);
module_exit(uvm_exit);
MODULE_LICENSE(STANDIN_LICENSE);
MODULE_VERSION(STANDIN_VERSION);
MODULE_DESCRIPTION("Stand-in for the NVIDIA UVM kernel module, for tests");
