"""baichuan2.finetune"""
