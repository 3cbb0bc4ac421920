package main

import "context"

func (b *bench) postfixPlain(ctx context.Context) error { return nil }
func (b *bench) postfixDKIM(ctx context.Context) error  { return nil }
func (b *bench) postfix100(ctx context.Context) error   { return nil }
