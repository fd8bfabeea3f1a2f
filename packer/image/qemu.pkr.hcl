# A qcow2 file from a qcow2 file. For KVM by default; no GPU.

variable "qemu_image" {
  type        = string
  description = "qemu: the disk to begin with, a qcow2 file by path or URL."
  default     = ""
}

variable "qemu_image_checksum" {
  type        = string
  description = "qemu: its checksum (sha256:…, or file: and a URL of a list), or none for a file of your own."
  default     = "none"
}

variable "qemu_output" {
  type        = string
  description = "qemu: the folder for the result, which must not be there yet; the file in it has the image's name and .qcow2."
  default     = "build/packer-qemu"
}

variable "qemu_seed_files" {
  type        = list(string)
  description = "qemu: user-data and meta-data for cloud-init, given as a CD labelled cidata (needs xorriso); they make the login. Empty: no CD."
  default     = []
}

variable "qemu_accelerator" {
  type        = string
  description = "qemu: kvm, hvf, or tcg, which emulates and is 10 to 30 times slower."
  default     = "kvm"

  validation {
    condition     = contains(["kvm", "hvf", "tcg"], var.qemu_accelerator)
    error_message = "The qemu_accelerator must be kvm, hvf or tcg."
  }
}

variable "qemu_cpus" {
  type        = number
  description = "qemu: processors of the build machine."
  default     = 2
}

variable "qemu_memory_mb" {
  type        = number
  description = "qemu: its memory."
  default     = 4096

  validation {
    condition     = var.qemu_memory_mb >= 1024
    error_message = "The qemu_memory_mb must be 1024 or more."
  }
}

variable "qemu_arguments" {
  type        = list(list(string))
  description = "qemu: more of QEMU's arguments, each a list ([\"-cpu\", \"host\"]); one that Packer gives too is replaced."
  default     = []
}

variable "qemu_boot_wait" {
  type        = string
  description = "qemu: how long Packer waits before it tries ssh."
  default     = "10s"
}

source "qemu" "image" {
  disk_image   = true
  iso_url      = var.qemu_image
  iso_checksum = var.qemu_image_checksum

  # A copy, no overlay: 1.6.6 calls qemu-img without the backing file's format, which today's refuses.
  use_backing_file = false
  format           = "qcow2"
  disk_size        = "${var.disk_gb}G"

  vm_name          = "${local.full_name}.qcow2"
  output_directory = var.qemu_output

  accelerator = var.qemu_accelerator
  cpus        = var.qemu_cpus
  memory      = var.qemu_memory_mb
  qemuargs    = var.qemu_arguments
  headless    = true
  disable_vnc = true
  boot_wait   = var.qemu_boot_wait
  cd_files    = var.qemu_seed_files
  cd_label    = "cidata"

  communicator              = "ssh"
  ssh_username              = var.user
  ssh_private_key_file      = var.private_key
  ssh_timeout               = var.ssh_timeout
  ssh_clear_authorized_keys = true
  shutdown_command          = "if [ \"$(id -u)\" = 0 ]; then systemctl poweroff; else sudo -n systemctl poweroff; fi"
  shutdown_timeout          = "10m"
}
