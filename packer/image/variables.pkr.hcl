# What every builder in this folder takes. A value comes from -var, a -var-file, or the environment (PKR_VAR_name). Packer 1.6.6 has no
# function `regex`, so patterns are checked by comparing with regex_replace.

variable "vars_file" {
  type        = string
  description = "File (JSON or YAML) with the role's variables, by absolute path; see roles/nvidia_prebake/README.md."

  validation {
    condition     = substr(var.vars_file, 0, 1) == "/"
    error_message = "The vars_file must be an absolute path: the playbook runs in its own folder."
  }
}

variable "image_name" {
  type        = string
  description = "What the image is called; the time is put behind it."
  default     = "gpu-node"

  validation {
    # Google's names are the narrowest: 63 characters, 15 of them the time.
    condition     = length(var.image_name) > 0 && length(var.image_name) <= 48 && var.image_name == regex_replace(var.image_name, "[^a-z0-9-]|^[^a-z]", "")
    error_message = "The image_name must have at most 48 lower-case letters, digits and hyphens, a letter first."
  }
}

variable "disk_gb" {
  type        = number
  description = "Size of the build machine's disk, and so of the image's, in GB. A bake wants 3 GB free beside the system (nvidia_prebake_min_free_mb)."
  default     = 32

  validation {
    condition     = var.disk_gb >= 10
    error_message = "The disk_gb must be 10 or more: a system, a driver image with its unpacked copy, and a build folder."
  }
}

variable "user" {
  type        = string
  description = "Who logs in to the build machine: somebody who may sudo without a password, or root."
  default     = "packer"

  validation {
    condition     = length(var.user) > 0 && var.user == regex_replace(var.user, "[^a-z0-9_-]", "")
    error_message = "The user must be a login name: lower-case letters, digits, _ and -."
  }
}

variable "private_key" {
  type        = string
  description = "File with the private key for that login; empty: Packer makes one for the build (in the clouds; qemu needs one)."
  default     = ""
}

variable "ssh_timeout" {
  type        = string
  description = "How long to wait for the build machine's first answer, as Packer writes durations (10m)."
  default     = "10m"

  validation {
    condition     = length(var.ssh_timeout) > 1 && var.ssh_timeout == regex_replace(var.ssh_timeout, "[^0-9hms]", "")
    error_message = "The ssh_timeout must be a duration such as 10m or 1h30m."
  }
}

variable "ansible_playbook" {
  type        = string
  description = "The ansible-playbook to use."
  default     = "ansible-playbook"
}

variable "upgrade" {
  type        = bool
  description = "Whether all packages are upgraded first, the kernel among them. Without it apt's lists are fetched only when a package is missing."
  default     = true
}

variable "reboot" {
  type        = string
  description = "Whether the build machine reboots before the bake: auto (if the upgrade brought a kernel or asks for it), always or never."
  default     = "auto"

  validation {
    condition     = contains(["auto", "always", "never"], var.reboot)
    error_message = "The reboot must be auto, always or never."
  }
}

locals {
  full_name = "${var.image_name}-${formatdate("YYYYMMDDhhmmss", timestamp())}"

  # As root with or without sudo: a build machine whose login is root need not have sudo.
  execute = "chmod +x {{ .Path }}; if [ \"$(id -u)\" = 0 ]; then {{ .Vars }} {{ .Path }}; else sudo -n env {{ .Vars }} {{ .Path }}; fi"
}
