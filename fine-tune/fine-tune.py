"""Fine-tuning by its official name:  deepspeed fine-tune.py --data_path FILE --output_dir OUT ..."""

import sys

if __name__ == "__main__":  # each process of a run starts this file again; importing it does nothing
    try:
        from baichuan2.cli.main import main
    except ImportError:
        sys.exit("error: baichuan2 is not installed: run  pip install -r requirements.txt")
    sys.exit(main(["finetune", *sys.argv[1:]]))
