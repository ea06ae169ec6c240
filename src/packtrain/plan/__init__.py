"""What a run needs before it costs anything: machines, memory, time, money."""
