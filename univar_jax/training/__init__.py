"""One run over many devices: the rooms behind train."""
