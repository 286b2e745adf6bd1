"""Jobs of several stages behind one command: quickstart, finetune."""
