"""Starting the real Nion Swift: in a project of its own, on a screen or on a virtual one."""
