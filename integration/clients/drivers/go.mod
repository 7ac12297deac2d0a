// The programs below are built one by one, each in a module of its own with the version that clients.json pins. This file only keeps them
// out of the product's module.
module github.com/irsa-sidecar/irsa-sidecar/integration/clients/drivers

go 1.26
