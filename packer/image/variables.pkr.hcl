# The variables of all builders in this folder. A value comes from -var, a -var-file, or the environment (PKR_VAR_name). Packer 1.6.6 has no
# function `regex`, so patterns are checked with regex_replace: it must leave the value as it is.

variable "vars_file" {
  type        = string
  description = "Absolute path of a file (JSON or YAML) with the variables of the role nvidia_prebake; see roles/nvidia_prebake/README.md."

  validation {
    condition     = substr(var.vars_file, 0, 1) == "/"
    error_message = "The vars_file must be an absolute path, because the playbook runs in its own folder."
  }
}

variable "image_name" {
  type        = string
  description = "Name of the image; the time of the build is appended."
  default     = "gpu-node"

  validation {
    # Google has the strictest rules for names: 63 characters, 15 of which the time needs.
    condition     = length(var.image_name) > 0 && length(var.image_name) <= 48 && var.image_name == regex_replace(var.image_name, "[^a-z0-9-]|^[^a-z]", "")
    error_message = "The image_name must have at most 48 lower-case letters, digits and hyphens, a letter first."
  }
}

variable "disk_gb" {
  type        = number
  description = "Size of the build machine's disk, and so of the image, in GB. A bake needs 3 GB free beside the system (nvidia_prebake_min_free_mb)."
  default     = 32

  validation {
    condition     = var.disk_gb >= 10
    error_message = "The disk_gb must be 10 or more, for the system, the driver image and its unpacked copy, and the build folder."
  }
}

variable "user" {
  type        = string
  description = "Login on the build machine: root, or a user who may use sudo without a password."
  default     = "packer"

  validation {
    condition     = length(var.user) > 0 && var.user == regex_replace(var.user, "[^a-z0-9_-]", "")
    error_message = "The user must be a login name: lower-case letters, digits, _ and -."
  }
}

variable "private_key" {
  type        = string
  description = "File with the private key for the login. If empty, Packer creates a key for the build; the qemu builder cannot and needs the file."
  default     = ""
}

variable "ssh_timeout" {
  type        = string
  description = "How long to wait until the build machine first answers, as a duration such as 10m."
  default     = "10m"

  validation {
    condition     = length(var.ssh_timeout) > 1 && var.ssh_timeout == regex_replace(var.ssh_timeout, "[^0-9hms]", "")
    error_message = "The ssh_timeout must be a duration such as 10m or 1h30m."
  }
}

variable "ansible_playbook" {
  type        = string
  description = "The ansible-playbook program to run."
  default     = "ansible-playbook"
}

variable "upgrade" {
  type        = bool
  description = "Whether to upgrade all packages first, also the kernel. If false, apt's package lists are fetched only if a package is missing."
  default     = true
}

variable "reboot" {
  type        = string
  description = "Whether to reboot the build machine before the bake: auto (if the upgrade changed the kernels or a package asks for a reboot), always or never."
  default     = "auto"

  validation {
    condition     = contains(["auto", "always", "never"], var.reboot)
    error_message = "The reboot must be auto, always or never."
  }
}

locals {
  full_name = "${var.image_name}-${formatdate("YYYYMMDDhhmmss", timestamp())}"

  # Runs a script as root. It uses sudo only if the login is not root, because a build machine whose login is root may have no sudo.
  execute = "chmod +x {{ .Path }}; if [ \"$(id -u)\" = 0 ]; then {{ .Vars }} {{ .Path }}; else sudo -n env {{ .Vars }} {{ .Path }}; fi"
}
