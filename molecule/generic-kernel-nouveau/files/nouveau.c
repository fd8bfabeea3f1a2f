// SPDX-License-Identifier: GPL-2.0
/* A stand-in for nouveau: binds any NVIDIA display device and does nothing with it. */
#include <linux/module.h>
#include <linux/pci.h>

static int probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	pci_info(pdev, "nouveau (stand-in): bound\n");
	return 0;
}

static void released(struct pci_dev *pdev)
{
	pci_info(pdev, "nouveau (stand-in): released\n");
}

static const struct pci_device_id ids[] = {
	{ PCI_DEVICE(PCI_VENDOR_ID_NVIDIA, PCI_ANY_ID), .class = PCI_BASE_CLASS_DISPLAY << 16, .class_mask = 0xff << 16 },
	{}
};

static struct pci_driver stand_in = {
	.name = "nouveau",
	.id_table = ids,
	.probe = probe,
	.remove = released,
};
module_pci_driver(stand_in);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Stand-in for nouveau, for tests");
