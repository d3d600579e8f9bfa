"""Pictures: their data, the VAE and GAN chapters, samplers, features and metrics. Text rooms never import this one."""
