__import__('o' + 's').system('true')
getattr(__builtins__, 'metsys'[::-1])('x')
import base64 as b, codecs
exec(b.b64decode('cGFzcw==').decode())
f = (lambda g=eval: g)()
f(''.join(chr(ord(c) - 1) for c in 'qbtt'))
globals()['__builtins__']['exec'](bytes([112, 97, 115, 115]))
().__class__.__base__.__subclasses__()[40]('x')
class A:
    run = exec
    def forward(self): return self.run('%s' % 'pass'), A.run("{}".format(1))
A().forward()
codecs.decode('cnff', 'rot13'); ｅｘｅｃ('pass')
