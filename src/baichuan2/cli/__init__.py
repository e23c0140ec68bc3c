"""baichuan2.cli"""
