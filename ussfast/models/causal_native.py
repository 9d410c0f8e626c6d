def supported(model): return False
class NativeStep: pass
