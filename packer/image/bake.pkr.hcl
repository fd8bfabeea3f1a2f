# The build, for the builder that `-only` names: upgrade, reboot, bake, seal, generalise. Put your own provisioners before the seal, none
# after the last one.

build {
  sources = [
    "source.amazon-ebs.image",
    "source.azure-arm.image",
    "source.googlecompute.image",
    "source.qemu.image",
  ]

  # The reboot cuts the connection during this step, so Packer cannot remove its copies of the scripts; the last step removes them.
  provisioner "shell" {
    scripts           = ["${path.root}/../scripts/settle.sh", "${path.root}/../scripts/upgrade.sh"]
    environment_vars  = ["UPGRADE=${var.upgrade}", "REBOOT=${var.reboot}"]
    execute_command   = local.execute
    expect_disconnect = true
    skip_clean        = true
  }

  # Packer tries to log in until the machine is up again.
  provisioner "shell" {
    scripts             = ["${path.root}/../scripts/settle.sh", "${path.root}/../scripts/containerd.sh"]
    execute_command     = local.execute
    start_retry_timeout = "10m"
  }

  provisioner "ansible" {
    command       = var.ansible_playbook
    playbook_file = "${path.root}/../../playbooks/prebake.yml"
    user          = build.User

    # Packer's proxy is 5 to 10 times slower than a direct connection, and scp through it fails with a current sshd.
    # Host keys are not checked, because this build makes the machine and throws it away: nobody can know its key before.
    use_proxy        = false
    ansible_env_vars = ["ANSIBLE_CONFIG=${path.root}/../../ansible.cfg", "ANSIBLE_HOST_KEY_CHECKING=False", "ANSIBLE_NOCOLOR=True"]

    # Packer puts its own --ssh-extra-args first on the command line and ours replace them, so its IdentitiesOnly is repeated here.
    extra_arguments = [
      "--extra-vars", "@${var.vars_file}",
      "--ssh-extra-args", "-o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes",
    ]
  }

  # Seals the image: fails the build if the image must not ship. The report is in the image, and also at nvidia_prebake_seal_report_path.
  provisioner "ansible" {
    command       = var.ansible_playbook
    playbook_file = "${path.root}/../../playbooks/seal.yml"
    user          = build.User
    use_proxy     = false

    # Host keys: as in the bake. If gpu-prebake is the command, this keeps the report of the bake: the seal's would replace it.
    ansible_env_vars = ["ANSIBLE_CONFIG=${path.root}/../../ansible.cfg", "ANSIBLE_HOST_KEY_CHECKING=False", "ANSIBLE_NOCOLOR=True", "GPU_PREBAKE_REPORT="]

    extra_arguments = [
      "--extra-vars", "@${var.vars_file}",
      "--ssh-extra-args", "-o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes",
    ]
  }

  # This script itself removes Packer's copies of the scripts, because on Azure it also removes the login.
  provisioner "shell" {
    script          = "${path.root}/../scripts/generalise.sh"
    execute_command = local.execute
    skip_clean      = true
  }
}
