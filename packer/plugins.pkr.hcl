# Packer 1.8 and later download plugins: run packer init packer/plugins.pkr.hcl. Packer 1.6 has the plugins built in and refuses this block,
# so it is in a file of its own: give Packer 1.6 only the file of a template, or the folder image/.
packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = "1.3.9"
    }
    ansible = {
      source  = "github.com/hashicorp/ansible"
      version = "1.1.3"
    }
    azure = {
      source  = "github.com/hashicorp/azure"
      version = "2.3.3"
    }
    googlecompute = {
      source  = "github.com/hashicorp/googlecompute"
      version = "1.1.9"
    }
    qemu = {
      source  = "github.com/hashicorp/qemu"
      version = "1.1.0"
    }
  }
}
