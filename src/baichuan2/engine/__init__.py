"""baichuan2.engine"""
