"""baichuan2.checkpoints"""
