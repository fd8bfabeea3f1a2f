# Builds a managed image in Azure. Log in with a service principal (azure_client_secret and the variables beside it) or with `az login`.

variable "azure_subscription_id" {
  type        = string
  description = "azure-arm: subscription; not needed with azure_use_cli."
  default     = ""
}

variable "azure_tenant_id" {
  type        = string
  description = "azure-arm: tenant of the service principal."
  default     = ""
}

variable "azure_client_id" {
  type        = string
  description = "azure-arm: application id of the service principal."
  default     = ""
}

variable "azure_client_secret" {
  type        = string
  description = "azure-arm: secret of the service principal; set it in the environment, as PKR_VAR_azure_client_secret."
  default     = ""
  sensitive   = true
}

variable "azure_use_cli" {
  type        = bool
  description = "azure-arm: use the login of `az login` in place of a service principal."
  default     = false
}

variable "azure_location" {
  type        = string
  description = "azure-arm: region to build in."
  default     = "westeurope"

  validation {
    condition     = length(var.azure_location) > 0 && var.azure_location == regex_replace(var.azure_location, "[^a-z0-9]", "")
    error_message = "The azure_location must be a region's short name, such as westeurope."
  }
}

variable "azure_resource_group" {
  type        = string
  description = "azure-arm: resource group for the image; it must exist already."
  default     = ""
}

variable "azure_vm_size" {
  type        = string
  description = "azure-arm: size of the build machine. It needs no GPU; more processors compile faster."
  default     = "Standard_D4s_v5"
}

variable "azure_source" {
  type        = map(string)
  description = "azure-arm: publisher, offer and sku of the source image. It must be of generation 2, which current GPU sizes need."
  default = {
    publisher = "Debian"
    offer     = "debian-12"
    sku       = "12-gen2"
  }
}

source "azure-arm" "image" {
  subscription_id    = var.azure_subscription_id
  tenant_id          = var.azure_tenant_id
  client_id          = var.azure_client_id
  client_secret      = var.azure_client_secret
  use_azure_cli_auth = var.azure_use_cli

  location        = var.azure_location
  vm_size         = var.azure_vm_size
  os_type         = "Linux"
  os_disk_size_gb = var.disk_gb
  image_publisher = var.azure_source["publisher"]
  image_offer     = var.azure_source["offer"]
  image_sku       = var.azure_source["sku"]

  managed_image_resource_group_name = var.azure_resource_group
  managed_image_name                = local.full_name

  communicator         = "ssh"
  ssh_username         = var.user
  ssh_private_key_file = var.private_key
  ssh_timeout          = var.ssh_timeout
}
