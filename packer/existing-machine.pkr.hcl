# Bakes into a machine that is already running (a native node of the lab, or one that you have prepared), with Packer's null builder.
# The machine's ssh host key must be in your known_hosts: log in once by hand, and compare it.
# It exports nothing: you shut the machine down and make an image of its disk yourself.
# Run it with Packer 1.6.6 (packer build … existing-machine.pkr.hcl). A later Packer first needs packer init with plugins.pkr.hcl.

variable "host" {
  type        = string
  description = "Address of the machine."
}

variable "port" {
  type        = number
  description = "The machine's ssh port."
  default     = 22
}

variable "user" {
  type        = string
  description = "Login on the machine: root, or a user who may use sudo."
  default     = "root"
}

variable "private_key" {
  type        = string
  description = "File with the private key for the login. If empty, the keys of your ssh agent are used."
  default     = ""
}

variable "ansible_playbook" {
  type        = string
  description = "The ansible-playbook program to run."
  default     = "ansible-playbook"
}

variable "vars_file" {
  type        = string
  description = "Absolute path of a file (JSON or YAML) with the variables of the role nvidia_prebake."

  validation {
    condition     = substr(var.vars_file, 0, 1) == "/"
    error_message = "The vars_file must be an absolute path, because the playbook runs in its own folder."
  }
}

source "null" "machine" {
  communicator         = "ssh"
  ssh_host             = var.host
  ssh_port             = var.port
  ssh_username         = var.user
  ssh_private_key_file = var.private_key
  ssh_agent_auth       = var.private_key == ""
}

build {
  sources = ["source.null.machine"]

  provisioner "ansible" {
    command       = var.ansible_playbook
    playbook_file = "${path.root}/../playbooks/prebake.yml"
    user          = var.user

    # Packer's proxy is 5 to 10 times slower than a direct connection, and scp through it fails with a current sshd.
    use_proxy        = false
    ansible_env_vars = ["ANSIBLE_CONFIG=${path.root}/../ansible.cfg", "ANSIBLE_NOCOLOR=True"]

    # The machine is known, and passwords and a signing key travel to it: its host key must be in known_hosts. Packer's own login does not look
    # at host keys. Packer puts its --ssh-extra-args first on the command line and ours replace them, so its IdentitiesOnly is repeated here.
    extra_arguments = [
      "--extra-vars", "@${var.vars_file}",
      "--ssh-extra-args", "-o StrictHostKeyChecking=yes -o IdentitiesOnly=yes",
    ]
  }

  # Put your own provisioners before this one. It checks the machine in the state in which it becomes an image, and fails the build if the
  # image must not ship.
  provisioner "ansible" {
    command       = var.ansible_playbook
    playbook_file = "${path.root}/../playbooks/seal.yml"
    user          = var.user
    use_proxy     = false

    # If gpu-prebake is the command, this keeps the report of the bake: the seal's would replace it.
    ansible_env_vars = ["ANSIBLE_CONFIG=${path.root}/../ansible.cfg", "ANSIBLE_NOCOLOR=True", "GPU_PREBAKE_REPORT="]

    extra_arguments = [
      "--extra-vars", "@${var.vars_file}",
      "--ssh-extra-args", "-o StrictHostKeyChecking=yes -o IdentitiesOnly=yes",
    ]
  }
}
