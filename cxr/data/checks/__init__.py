"""Checks of a data set before training: what is broken, copied, or tells the class by itself?"""
