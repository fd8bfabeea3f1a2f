# Builds a qcow2 file from a qcow2 file, with KVM by default. It needs no GPU.

variable "qemu_image" {
  type        = string
  description = "qemu: path or URL of the source disk, a qcow2 file."
  default     = ""
}

variable "qemu_image_checksum" {
  type        = string
  description = "qemu: checksum of the source disk (sha256:…, or file: and the URL of a list of checksums), or none if qemu_image is a local path, which begins with / or a dot."
  default     = "none"
}

variable "qemu_output" {
  type        = string
  description = "qemu: folder for the result, which must not exist yet. The file in it has the image's name and the suffix .qcow2."
  default     = "build/packer-qemu"
}

variable "qemu_seed_files" {
  type        = list(string)
  description = "qemu: files user-data and meta-data, with which cloud-init creates the login, from a CD labelled cidata (needs xorriso). If empty, no CD."
  default     = []
}

variable "qemu_accelerator" {
  type        = string
  description = "qemu: kvm, hvf or tcg. tcg emulates the processor and is 10 to 30 times slower."
  default     = "kvm"

  validation {
    condition     = contains(["kvm", "hvf", "tcg"], var.qemu_accelerator)
    error_message = "The qemu_accelerator must be kvm, hvf or tcg."
  }
}

variable "qemu_cpus" {
  type        = number
  description = "qemu: number of processors of the build machine."
  default     = 2
}

variable "qemu_memory_mb" {
  type        = number
  description = "qemu: memory of the build machine, in MB."
  default     = 4096

  validation {
    condition     = var.qemu_memory_mb >= 1024
    error_message = "The qemu_memory_mb must be 1024 or more."
  }
}

variable "qemu_arguments" {
  type        = list(list(string))
  description = "qemu: further arguments for QEMU, each a list ([\"-cpu\", \"host\"]). They replace arguments of the same name that Packer gives."
  default     = []
}

variable "qemu_boot_wait" {
  type        = string
  description = "qemu: how long Packer waits before it first tries ssh."
  default     = "10s"
}

locals {
  # A disk that comes over a network is never used unchecked. A variable's validation cannot ask about another variable, but Packer refuses
  # this sentence as a checksum, and shows it.
  qemu_is_local = var.qemu_image != regex_replace(var.qemu_image, "^(/|[.][.]?/)", "")
  qemu_checksum = lower(var.qemu_image_checksum) == "none" && ! local.qemu_is_local ? "the qemu_image_checksum may be none only for a local path" : var.qemu_image_checksum
}

source "qemu" "image" {
  disk_image   = true
  iso_url      = var.qemu_image
  iso_checksum = local.qemu_checksum

  # A copy, not an overlay: Packer 1.6.6 calls qemu-img without the format of the backing file, and a current qemu-img refuses that.
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
