"""baichuan2.web"""
