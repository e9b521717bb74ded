package api

// TemplateArg on the kernel's command line tells the agent that the machine is
// to be saved as a template. It then says Hello only when its set-up is
// complete, and the host saves the machine while it waits for Welcome: each
// clone gets a Welcome of its own, with the time and fresh entropy.
const TemplateArg = "vc.template"

// VsockArg on the kernel's command line tells the agent of a template that the
// machine has a vsock device, which the host will want to use in its clones.
const VsockArg = "vc.vsock"

// EmulatedArg on the kernel's command line tells the agent that its processor is
// emulated: a wake-up costs so much there that fewer are worth some of them late.
const EmulatedArg = "vc.emulated"
