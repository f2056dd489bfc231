"""What a run would take on machines that are not there, from the real compilers' programs."""
