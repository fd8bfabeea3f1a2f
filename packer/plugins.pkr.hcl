# For Packer 1.8 and later, which fetch plugins: packer init packer/plugins.pkr.hcl. A file of its own, since Packer 1.6 refuses this
# block and has the plugins built in: give it a template's file or the folder image/ alone.
packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.2.0, < 2.0.0"
    }
    ansible = {
      source  = "github.com/hashicorp/ansible"
      version = ">= 1.1.0, < 2.0.0"
    }
    azure = {
      source  = "github.com/hashicorp/azure"
      version = ">= 2.0.0, < 3.0.0"
    }
    googlecompute = {
      source  = "github.com/hashicorp/googlecompute"
      version = ">= 1.1.0, < 2.0.0"
    }
    qemu = {
      source  = "github.com/hashicorp/qemu"
      version = ">= 1.0.0, < 2.0.0"
    }
  }
}
