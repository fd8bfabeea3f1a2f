# Bakes into a machine that runs already (a native node of the lab, or one that you have prepared): Packer's null builder.
# It exports nothing: shutting down and making an image of the machine's disk are the caller's steps.
# Run with Packer 1.6.6 (packer build … existing-machine.pkr.hcl); later ones take plugins.pkr.hcl too (packer init packer).

variable "host" {
  type        = string
  description = "Address of the machine."
}

variable "port" {
  type        = number
  description = "Its ssh port."
  default     = 22
}

variable "user" {
  type        = string
  description = "Who logs in: root, or somebody who may sudo."
  default     = "root"
}

variable "private_key" {
  type        = string
  description = "File with the private key for that login; empty: the keys of your ssh agent."
  default     = ""
}

variable "ansible_playbook" {
  type        = string
  description = "The ansible-playbook to use."
  default     = "ansible-playbook"
}

variable "vars_file" {
  type        = string
  description = "File (JSON or YAML) with the role's variables, by absolute path."

  validation {
    condition     = substr(var.vars_file, 0, 1) == "/"
    error_message = "The vars_file must be an absolute path: the playbook runs in its own folder."
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

    # Packer's proxy is 5 to 10 times slower, and scp through it fails against today's sshd.
    use_proxy        = false
    ansible_env_vars = ["ANSIBLE_CONFIG=${path.root}/../ansible.cfg", "ANSIBLE_HOST_KEY_CHECKING=False", "ANSIBLE_NOCOLOR=True"]

    # Packer's own --ssh-extra-args come first on the line and ours replace them, so its IdentitiesOnly is said again.
    extra_arguments = [
      "--extra-vars", "@${var.vars_file}",
      "--ssh-extra-args", "-o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes",
    ]
  }

  # Your own steps stand before this one: it proves the machine as it will become an image, and fails the build where it is not right.
  provisioner "ansible" {
    command       = var.ansible_playbook
    playbook_file = "${path.root}/../playbooks/seal.yml"
    user          = var.user
    use_proxy     = false

    # Where gpu-prebake is the command, its report stays the bake's.
    ansible_env_vars = ["ANSIBLE_CONFIG=${path.root}/../ansible.cfg", "ANSIBLE_HOST_KEY_CHECKING=False", "ANSIBLE_NOCOLOR=True", "GPU_PREBAKE_REPORT="]

    extra_arguments = [
      "--extra-vars", "@${var.vars_file}",
      "--ssh-extra-args", "-o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes",
    ]
  }
}
