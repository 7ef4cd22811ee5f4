"""What a search chooses among: candidates of every layer, what each layer costs alone, and tables of everything."""
