"""baichuan2.chat"""
